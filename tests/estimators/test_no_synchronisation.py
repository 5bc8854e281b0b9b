"""A training step reads no number back from the device: nothing waits, and it can be traced."""

from functools import partial
from itertools import pairwise

import pyro
import pytest
import torch
from pairs import binary, ssvae, vae
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae import data
from ppl_vae.estimators import (
    AnalyticKLELBO,
    ImportanceWeightedELBO,
    KLWeighted,
    TotalCorrelationELBO,
    linear_warm_up,
)
from ppl_vae.training import fit
from ppl_vae.training.deferred_checks import INTERVAL, DeferredChecks


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
    "total correlation": lambda: TotalCorrelationELBO(100, num_particles=3),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("make", [vae, lambda: vae("mixture"), ssvae], ids=["vae", "gm", "ss"])
def test_estimators_do_not_synchronise(make, estimator):
    pair, x, elbo = make(), binary(), ESTIMATORS[estimator]()
    pyro.enable_validation(False)
    if estimator == "free bits" and not hasattr(pair.prior, "scale"):
        pytest.skip("free bits need a KL in closed form")
    if estimator == "total correlation" and make is not vae:
        pytest.skip("a mixture prior or a label has no total correlation over dimensions")
    with Forbid():
        loss = elbo.loss_and_grads(pair.model, pair.guide, x)
    assert isinstance(loss, torch.Tensor)
    assert any(p.grad is not None for p in pair.parameters())


def test_the_detector_sees_a_synchronisation():
    with Forbid(), pytest.raises(AssertionError, match="waits for the device"):
        torch.ones(3).sum().item()


class Reads(TorchDispatchMode):
    """Count what would wait for a device."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        waits = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select")
        self.number += function.name() in waits
        return function(*args, **(kwargs or {}))


class Copies(TorchFunctionMode):
    """Count what would copy from a device and is no operation on a CPU."""

    number = 0
    copying = (Tensor.tolist, Tensor.numpy, Tensor.cpu)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.number += function in self.copying
        return function(*args, **(kwargs or {}))


def reads_in_each_step(pair, given, steps=25, **options):
    """Train, and return how many numbers were read from the optimiser's first step to the next."""
    marks = []

    class Counting(torch.optim.Adam):
        def step(self):
            super().step()
            marks.append(reads.number + copies.number)

    with Reads() as reads, Copies() as copies:
        fit(
            pair,
            given,
            steps=steps,
            optimizer=partial(Counting, fused=True),
            lr_schedule=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9),
            log_every=1000,
            progress=False,
            **options,
        )
    return [b - a for a, b in pairwise(marks)]


DIGITS = data.load("digits")
X = DIGITS.draw(torch.arange(150), binarise="threshold")[:, :6]
Y = torch.arange(150) % 3
FITS = {
    "a vae": lambda: (vae(), X, {}),
    "beta and clipping": lambda: (
        vae("mixture"),
        X,
        {"beta": linear_warm_up(9), "clip_norm": 1.0, "num_particles": lambda step: 1 + step // 9},
    ),
    "binarised": lambda: (vae(), 0.9 * X, {}),
    "two streams": lambda: (
        ssvae(),
        data.SemiSupervised(data.Dataset(X, Y), range(20), batch_size=20),
        {},
    ),
}


@pytest.mark.parametrize(
    "later", [pytest.param(False, marks=pytest.mark.slow), True], ids=["each step", "later"]
)
@pytest.mark.parametrize("name", FITS)
@pytest.mark.usefixtures("as_users_see_it")
def test_a_step_of_fit_synchronises_at_most_once(name, later, monkeypatch):
    """It is whether loss and gradient are finite; on a GPU it is read for several steps at once."""
    monkeypatch.setattr(DeferredChecks, "supports", lambda *_: later)
    pair, given, options = FITS[name]()
    found = reads_in_each_step(pair, given, **options)
    # The first step is looked at for itself, as its values are.
    after = [int(step > 0 and step % INTERVAL == 0) for step in range(24)]
    assert found == (after if later else [1] * 24)


@pytest.mark.usefixtures("as_users_see_it")
def test_a_compiled_step_of_fit_synchronises_no_more(monkeypatch):
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )
    pair, given, options = FITS["two streams"]()
    found = reads_in_each_step(pair, given, compile=True, **options)
    assert found[-6:] == [1] * 6


def test_the_detector_sees_a_copy_to_the_host():
    with Copies() as copies:
        torch.ones(3).tolist(), torch.ones(3).cpu(), torch.ones(3).numpy()
    assert copies.number == 3
