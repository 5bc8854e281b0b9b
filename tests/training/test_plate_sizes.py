"""Losses are per datum, whatever the size of the data plate at a step.

Right values are minus the log-density in closed form: with no latent, the bound is the mean
log-density of the data that were drawn.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.training import compile_step, fit

N = 40
X = torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Model(nn.Module):
    """N data x ~ Normal(m, 1), with a latent that they do not depend on."""

    def __init__(self):
        super().__init__()
        self.m = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.size = N

    def forward(self, x):
        with pyro.plate("data", self.size, subsample_size=len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros_like(self.m), 1.0))
            pyro.sample("x", dist.Normal(self.m, 1.0), obs=x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.size = N

    def forward(self, x):
        with pyro.plate("data", self.size, subsample_size=len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.model, self.guide = Model(), Guide()


def expected(x):
    return -dist.Normal(0.0, 1.0).log_prob(x).mean().item()


def still(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


SIZES = {"all first": (N, 4, N, 8), "few first": (4, N, 8), "one first": (1, N, 2)}


@pytest.fixture(autouse=True)
def eager(as_users_see_it, monkeypatch):
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )


@pytest.mark.parametrize("estimator", [Trace_ELBO(), ImportanceWeightedELBO(4)], ids=["1", "4"])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_fit(name, compiled, estimator):
    batches = [(X[:size],) for size in SIZES[name]]
    options = {"estimator": estimator, "optimizer": still, "compile": compiled}
    found = fit(Pair(), batches, steps=len(batches), log_every=1, progress=False, **options)
    assert found.history["loss"] == pytest.approx([expected(x) for (x,) in batches], rel=1e-6)


def test_compile_step_and_a_plate_that_grows():
    pair = Pair()
    step = compile_step(pair, ImportanceWeightedELBO(4), still(pair.parameters()))
    for size, total in ((N, N), (4, N), (4, 100), (4, 4)):
        pair.model.size = pair.guide.size = total
        assert step(X[:size]).item() == pytest.approx(expected(X[:size]), rel=1e-6)
