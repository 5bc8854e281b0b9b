"""A step that is not taken leaves buffers unchanged: running means, counters, power iterations.

Right values are the buffers of a training that ended before that step.
"""

import warnings

import pyro
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae import VAE, likelihoods, nets, posteriors, priors
from ppl_vae.buffers import MovingBuffers
from ppl_vae.compilation import NotCompiledWarning
from ppl_vae.estimators import ImportanceWeightedELBO, KLWeighted, linear_warm_up
from ppl_vae.training import NotFiniteError, compile_step, fit
from ppl_vae.training.deferred_checks import DeferredChecks

D, Z = 6, 2
X = (torch.rand(16, D, generator=torch.Generator().manual_seed(0)) > 0.5).float()
BAD = torch.where(torch.arange(D) == 0, torch.nan, X)
GOOD_STEPS = 3


@pytest.fixture(autouse=True)
def eager(as_users_see_it, monkeypatch):
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )
    pyro.enable_validation(False)  # which would refuse the data before the step


class Replacing(nn.Module):
    """A running mean that is a new tensor each time."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(D, 2 * Z)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
        return self.inner(x) + 0 * self.mean


NETS = {
    "batch norm": lambda: nets.KeepLeading(
        nn.Sequential(nn.Linear(D, 5), nn.BatchNorm1d(5), nn.Linear(5, 2 * Z)), 1
    ),
    "a mean that is replaced": Replacing,
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(D, 2 * Z)),
    "spectral norm by a hook": lambda: nn.utils.spectral_norm(nn.Linear(D, 2 * Z)),
}


def pair_of(name):
    pyro.set_rng_seed(0)
    return VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(NETS[name]()),
        likelihood=likelihoods.Normal(nets.MLP(Z, D, hidden=(5,))),
    )


def state(pair):
    return {n: t.detach().clone() for n, t in (*pair.named_parameters(), *pair.named_buffers())}


def assert_same(got, expected):
    assert [name for name in expected if not torch.equal(got[name], expected[name])] == []


def fused(parameters):
    return torch.optim.Adam(parameters, lr=0.01, fused=True)


LATER = [(name, False) for name in NETS] + [("batch norm", True)]
"""Networks, and whether a step is looked at later, as on a GPU."""


@pytest.mark.filterwarnings("ignore::ppl_vae.compilation.NotCompiledWarning")
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize(("name", "later"), LATER)
def test_fit(name, compiled, later, monkeypatch):
    monkeypatch.setattr(DeferredChecks, "supports", lambda *_: later)
    options = {
        "estimator": ImportanceWeightedELBO(2),
        "optimizer": fused,
        "compile": compiled,
        "progress": False,
    }
    good = [(X,)] * GOOD_STEPS
    expected = pair_of(name)
    begun = state(expected)
    fit(expected, good, steps=GOOD_STEPS, **options)
    pair = pair_of(name)
    with pytest.raises(NotFiniteError, match=f"step {GOOD_STEPS}"):
        fit(pair, [*good, *[(BAD,)] * 20], steps=20, **options)
    assert_same(state(pair), state(expected))
    assert any(not torch.equal(begun[n], b) for n, b in expected.named_buffers())


@pytest.mark.filterwarnings("ignore::ppl_vae.compilation.NotCompiledWarning")
@pytest.mark.parametrize(("name", "later"), LATER)
def test_compile_step(name, later, monkeypatch):
    monkeypatch.setattr(DeferredChecks, "supports", lambda *_: later)
    pair = pair_of(name)
    estimator = KLWeighted(ImportanceWeightedELBO(2), linear_warm_up(10))
    step = compile_step(pair, estimator, fused(pair.parameters()))
    for _ in range(GOOD_STEPS):
        step(X)
    before = state(pair)
    with pytest.raises(NotFiniteError, match=f"step {GOOD_STEPS}"):
        [step(BAD) for _ in range(20)]
    assert_same(state(pair), before)
    assert estimator.step == GOOD_STEPS  # those that were taken
    assert step(X).isfinite()
    assert estimator.step == GOOD_STEPS + 1


def test_buffers_that_start_to_change_are_restored():
    pair = pair_of("batch norm").eval()
    step = compile_step(pair, ImportanceWeightedELBO(1), fused(pair.parameters()))
    step(X)
    before = state(pair)
    pair.train()
    with pytest.raises(NotFiniteError):
        step(BAD)
    assert_same(state(pair), before)


def test_programs_that_replace_a_tensor_at_each_run_run_uncompiled():
    """A hook of torch's spectral norm makes its module's weight anew."""
    pair = pair_of("spectral norm by a hook")
    step = compile_step(pair, ImportanceWeightedELBO(1), fused(pair.parameters()))
    with pytest.warns(NotCompiledWarning, match="running it changes"):
        assert step(X).isfinite()
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        assert step(X).isfinite()


class Copies(TorchDispatchMode):
    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += function.name().startswith("aten::clone")
        return function(*args, **(kwargs or {}))


def test_buffers_that_never_change_are_not_copied():
    norm = nn.BatchNorm1d(2)
    norm.register_module("inner", nn.Module())
    norm.inner.register_buffer("constant", torch.ones(3))
    moving = MovingBuffers(norm)
    numbers = []
    for step in range(3):
        with Copies() as copies:
            moving.snapshot()
        norm(torch.randn(4, 2))
        if step == 1:
            norm.inner.constant.add_(1)  # found from the next step on
        moving.update()
        numbers.append(copies.number)
    assert numbers == [4, 3, 4]
    put_back = moving.snapshot()
    before = [b.clone() for b in norm.buffers()]
    norm(torch.full((4, 2), torch.nan))
    assert norm.running_mean.isnan().all()
    put_back()
    assert all(map(torch.equal, before, norm.buffers()))
