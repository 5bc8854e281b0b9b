"""Steps of schedules: which step they follow, and which values are refused.

Right values are β as the schedule is defined, and the losses of calls by hand at that β.
"""

import warnings

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from ppl_vae import VAE, HierarchicalVAE, estimators, likelihoods, nets, posteriors, priors
from ppl_vae.compilation import NotCompiledWarning
from ppl_vae.estimators import KLWeighted, linear_warm_up
from ppl_vae.training import compile_step, fit

D, Z = 6, 2
X = (torch.rand(16, D, generator=torch.Generator().manual_seed(0)) > 0.5).float()
iw = estimators.ImportanceWeightedELBO


@pytest.fixture(autouse=True)
def eager(as_users_see_it, monkeypatch):
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        yield


def net(width_in, width_out):
    return nets.MLP(width_in, width_out, hidden=(5,))


def vae():
    return VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z, D)),
    )


def hierarchy():
    return HierarchicalVAE(
        prior=priors.StandardNormal(Z),
        conditionals=[posteriors.DiagonalNormal(net(Z, 2 * 3))],
        posteriors=[
            posteriors.DiagonalNormal(net(D, 2 * 3)),
            posteriors.DiagonalNormal(net(3, 2 * Z)),
        ],
        likelihood=likelihoods.Bernoulli(net(3, D)),
    )


CASES = {
    "an analytic KL": (vae, lambda: estimators.AnalyticKLELBO(max_plate_nesting=1)),
    "free bits": (
        vae,
        lambda: estimators.AnalyticKLELBO(free_bits=0.1, max_plate_nesting=1),
    ),
    "particles": (vae, lambda: iw(3, max_plate_nesting=1)),
    "dreg": (vae, lambda: iw(3, "dreg", max_plate_nesting=1)),
    "a hierarchy, dreg": (hierarchy, lambda: iw(3, "dreg", max_plate_nesting=1)),
    "a hierarchy, stl": (hierarchy, lambda: iw(3, "stl", max_plate_nesting=1)),
    "Pyro's": (vae, lambda: Trace_ELBO(max_plate_nesting=1)),
}


FIRST = (0, 3, 1000)


# The others differ from these in the bound alone, which other tests compile.
BY_DEFAULT = ("free bits", "dreg", "Pyro's")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in BY_DEFAULT else pytest.mark.slow) for n in CASES]
)
def test_the_schedule_follows_the_estimators_own_step(name):
    """From wherever the estimator begins, and wherever it is put later; the graph is one."""
    make, bound = CASES[name]
    begin = list(CASES).index(name) % len(FIRST)
    curves = []
    for compiled in (True, False):
        pyro.set_rng_seed(0)
        pair = make()
        estimator = KLWeighted(bound(), linear_warm_up(10))
        optimizer = torch.optim.SGD(pair.parameters(), lr=0.1)
        step = compile_step(pair, estimator, optimizer)
        curve = []
        for first in FIRST[begin:] + FIRST[:begin]:
            estimator.step = first
            pyro.set_rng_seed(1)
            for i in range(3):
                assert estimator.beta == min((first + i) / 10, 1.0)
                if compiled:
                    loss = step(X)
                else:
                    optimizer.zero_grad()
                    loss = estimator.differentiable_loss(pair.model, pair.guide, X) / len(X)
                    loss.backward()
                    optimizer.step()
                curve.append((loss.item(), [p.detach().clone() for p in pair.parameters()]))
            assert estimator.step == first + 3
        curves.append(curve)
    for (loss, weights), (right, expected) in zip(*curves, strict=True):
        assert loss == pytest.approx(right, rel=1e-5)
        for ours, theirs in zip(weights, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("compiled", "first"),
    [(False, 0), (False, 4), (True, 4), pytest.param(True, 0, marks=pytest.mark.slow)],
)
def test_fit_starts_at_the_estimators_step_and_does_not_change_it(first, compiled):
    estimator = KLWeighted(iw(2), linear_warm_up(10))
    estimator.step = first
    found = fit(
        vae(),
        X,
        batch_size=8,
        steps=3,
        estimator=estimator,
        num_particles=lambda step: 3 + step,
        compile=compiled,
        log_every=1,
        progress=False,
    )
    assert list(found.history["beta"]) == [(first + i) / 10 for i in range(3)]
    assert list(found.history["num_particles"]) == [3, 4, 5]
    assert (estimator.step, estimator.estimator.num_particles) == (first, 2)


WRONG = [-1.0, float("nan"), float("inf"), torch.tensor(-0.5), -1]


def goes_wrong(step):
    """Return 1/2 at even steps, and each of the wrong ones at an odd step."""
    return WRONG[step // 2] if step % 2 else 0.5


def refused(step):
    return pytest.raises(
        ValueError, match=f"schedule at step {step}: beta must be finite and at least 0, got"
    )


@pytest.mark.parametrize("kind", ["compiled", "SVI"])
def test_an_invalid_beta_is_refused_at_its_step(kind):
    pair, estimator = vae(), KLWeighted(iw(1), goes_wrong)
    if kind == "SVI":
        take = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), estimator).step
    else:
        take = compile_step(pair, estimator, torch.optim.SGD(pair.parameters(), lr=0.1))
    for wrong in range(1, 2 * len(WRONG), 2):
        take(X)
        assert estimator.step == wrong
        before = [p.detach().clone() for p in pair.parameters()]
        with refused(wrong):
            take(X)
        assert all(map(torch.equal, before, pair.parameters()))
        assert estimator.step == wrong
        estimator.step = wrong + 1


@pytest.mark.parametrize("compiled", [False, True])
def test_an_invalid_beta_ends_fit_at_its_step(compiled):
    given = {"batch_size": 8, "steps": 4, "compile": compiled, "progress": False}
    with refused(1):
        fit(vae(), X, beta=goes_wrong, **given)
    for wrong in range(1, 2 * len(WRONG), 2):
        estimator = KLWeighted(iw(1), goes_wrong)
        estimator.step = wrong
        with refused(wrong):
            fit(vae(), X, estimator=estimator, **given)


def test_a_schedule_that_does_not_return_a_number_is_refused():
    with pytest.raises(TypeError, match="schedule at step 0: beta must be a number, got 'half'"):
        fit(vae(), X, batch_size=8, steps=1, beta=lambda step: "half", progress=False)


def test_weights_of_the_kl_are_compared_without_synchronisation():
    """A look at a value on the device ("meta" has none) would be an error."""
    estimator = KLWeighted(iw(3, "dreg"), 0.5)
    with estimator.beta_is(torch.zeros((), device="meta")):
        pair = hierarchy().to("meta")
        pyro.enable_validation(False)
        loss = estimator.differentiable_loss(pair.model, pair.guide, X.to("meta"))
    assert loss.device.type == "meta"
