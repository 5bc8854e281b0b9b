"""A training step reads no number back from the device: nothing waits, and it can be traced."""

import pyro
import pytest
import torch
from pairs import binary, ssvae, vae
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO, KLWeighted, linear_warm_up


class Forbid(TorchDispatchMode):
    """Raise where a tensor becomes a Python number, or its size depends on values."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"):
            raise AssertionError(f"{name} waits for the device")
        return function(*args, **(kwargs or {}))


ESTIMATORS = {
    "iwae": lambda: ImportanceWeightedELBO(3),
    "dreg": lambda: ImportanceWeightedELBO(3, "dreg"),
    "stl": lambda: ImportanceWeightedELBO(3, "stl"),
    "wake": lambda: ImportanceWeightedELBO(3, "wake"),
    "piwae": lambda: ImportanceWeightedELBO(3, num_groups=2, pool_model=True),
    "analytic": lambda: AnalyticKLELBO(monte_carlo=True),
    "free bits": lambda: AnalyticKLELBO(free_bits=0.1),
    "weighted": lambda: KLWeighted(ImportanceWeightedELBO(3), linear_warm_up(10)),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("make", [vae, lambda: vae("mixture"), ssvae], ids=["vae", "gm", "ss"])
def test_no_number_is_read_back(make, estimator):
    pair, x, elbo = make(), binary(), ESTIMATORS[estimator]()
    pyro.enable_validation(False)
    if estimator == "free bits" and not hasattr(pair.prior, "scale"):
        pytest.skip("free bits need a KL in closed form")
    with Forbid():
        loss = elbo.loss_and_grads(pair.model, pair.guide, x)
    assert isinstance(loss, torch.Tensor)
    assert any(p.grad is not None for p in pair.parameters())


def test_the_watch_sees_a_synchronisation():
    with Forbid(), pytest.raises(AssertionError, match="waits for the device"):
        torch.ones(3).sum().item()
