"""Networks in bfloat16, densities in float32."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from lightning_fabric import Fabric
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import nn

from ppl_vae import VAE, data, estimators, likelihoods, nets, posteriors, priors
from ppl_vae.training import fit
from ppl_vae.training.precision import networks, networks_only

DIGITS = data.load("digits")
quiet = partial(fit, progress=False)


def mixed():
    return Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")


def digits_vae(likelihood=None, prior=None):
    pyro.set_rng_seed(0)
    return VAE(
        prior=prior or priors.FullRankNormal(2),
        posterior=posteriors.FullRankNormal(nets.MLP(64, 5, hidden=(32,))),
        likelihood=likelihood or likelihoods.Normal(nets.MLP(2, 64, hidden=(32,)), "learned"),
    )


class Note(nn.Module):
    """A network that notes the dtypes it works in."""

    def __init__(self, net):
        super().__init__()
        self.net, self.inner, self.outer = net, [], []

    def forward(self, x):
        self.outer.append((x.dtype, torch.is_autocast_enabled("cpu")))
        out = self.net(x)
        self.inner.append(out.dtype)
        return out


def test_networks_run_in_bfloat16_and_return_float32():
    vae = digits_vae()
    programs = nn.ModuleDict({"model": vae.model, "guide": vae.guide})
    x = DIGITS.draw(torch.arange(7), binarise="none")
    seen = []
    for network in networks(programs):
        network.register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16), networks_only(programs, "cpu"):
        trace = poutine.trace(vae.guide).get_trace(x)
        replayed = poutine.trace(poutine.replay(vae.model, trace)).get_trace(x)
        for traced in (trace, replayed):
            traced.compute_log_prob()
        assert not torch.is_autocast_enabled("cpu")
    assert seen == [torch.bfloat16, torch.bfloat16]
    for site in (trace.nodes["z"], replayed.nodes["z"], replayed.nodes["x"]):
        assert site["log_prob"].dtype is torch.float32
        assert site["value"].dtype is torch.float32
    # Exact, given the networks' outputs.
    x_site = replayed.nodes["x"]
    scale = x_site["fn"].base_dist.scale  # that of before: training moves it
    exact = dist.Normal(x_site["fn"].mean, scale).log_prob(x).double().sum(-1)
    assert torch.allclose(x_site["log_prob"].double(), exact, rtol=1e-6)
    hooks = [h for m in programs.modules() for h in m._forward_pre_hooks]
    assert not hooks, "nothing may stay behind"


def test_without_autocast_precision_is_unchanged():
    vae = digits_vae()
    with networks_only(nn.ModuleDict({"model": vae.model, "guide": vae.guide}), "cpu"):
        assert not any(m._forward_pre_hooks for m in vae.modules())


def test_an_error_within_a_network_leaves_autocast_disabled():
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    program = nn.ModuleDict({"net": Fails()})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with (
            networks_only(nn.ModuleDict({"model": program}), "cpu"),
            pytest.raises(RuntimeError, match="no"),
        ):
            program["net"](torch.zeros(1))
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    "estimator", [None, estimators.ImportanceWeightedELBO(5, "dreg"), estimators.AnalyticKLELBO()]
)
def test_training_in_mixed_precision_is_close_to_full_precision(estimator):
    losses = []
    for fabric in (None, mixed()):
        vae = digits_vae()
        fitted = quiet(vae, DIGITS, steps=60, estimator=estimator, fabric=fabric, log_every=20)
        assert all(p.dtype is torch.float32 for p in vae.parameters())
        losses.append(fitted.history["loss"])
    # bfloat16 has 8 bits: networks' outputs are off by parts in a thousand.
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(losses[1], abs=0.02 * abs(losses[0]).max())


def test_the_data_are_not_rounded():
    """Fabric rounds tensors that it hands to a module: a density must see the data as they are."""

    class Seen(Messenger):
        def __init__(self):
            super().__init__()
            self.values = []

        def _pyro_post_sample(self, msg):
            if msg["name"] == "x":
                self.values.append(msg["value"])

    x, seen = torch.rand(20, 64), Seen()
    with seen:
        quiet(digits_vae(), x, steps=1, batch_size=20, fabric=mixed())
    assert seen.values
    for value in seen.values:
        assert value.dtype is torch.float32
        assert {tuple(r) for r in value.tolist()} == {tuple(r) for r in x.tolist()}


def test_networks_of_user_programs_are_found():
    class Program(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))])
            self.prior = priors.StandardNormal(2)

    program = Program()
    found = networks(nn.ModuleDict({"model": program}))
    assert found == [program.layers[0], program.layers[1]]
