"""The estimator beside Pyro's own tools: automatic guides, Predictive, inspection, drawings."""

import math
import sys
from unittest.mock import MagicMock

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs.program import ENUMERATED
from pyro import poutine
from pyro.infer import SVI, Predictive, TraceEnum_ELBO, autoguide, infer_discrete
from pyro.infer.inspect import get_dependencies, get_model_relations
from pyro.nn import PyroModule, PyroParam, PyroSample

from ppl_vae.estimators import ImportanceWeightedELBO

X = torch.tensor([-2.1, -1.8, 1.7, 2.2, 2.0])
pytestmark = pytest.mark.usefixtures("as_users_see_it")


def normal(x):
    """m ~ N(0, 1), x_i ~ N(m, 1) for i = 1..n: m given x is N(Σx / (n+1), 1 / (n+1))."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 5):
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)


def gap(guide):
    """Return log p(x) - ELBO = KL(q ‖ p(m|x)) of a guide by ``AutoNormal``."""
    q = guide._get_loc_and_scale("m")
    posterior = dist.Normal(X.sum() / 6, 1 / math.sqrt(6))
    return torch.distributions.kl_divergence(dist.Normal(*q), posterior).item()


def mixture(x=None):
    weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
    means = pyro.sample("means", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    with pyro.plate("data", 5):
        y = pyro.sample("y", dist.Bernoulli(weight), infer=ENUMERATED)
        mean = torch.where(y > 0, means[..., 1], means[..., 0])
        return pyro.sample("x", dist.Normal(mean, 0.5), obs=x)


def train(model, guide, *args, estimator, steps=60):
    """Train by SVI at a falling learning rate; return the first and the last losses' means."""
    optimizer = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.1 ** (1.5 / steps)})
    svi = SVI(model, guide, optimizer, estimator)
    losses = torch.tensor([float(svi.step(*args)) for _ in range(steps)])
    return losses[:5].mean(), losses[-20:].mean()


WHOLE = {
    "one": (lambda: ImportanceWeightedELBO(1), 0.05),
    "several": (lambda: ImportanceWeightedELBO(5, plate=None), 1.0),  # flat where q is wide
    "dreg": (lambda: ImportanceWeightedELBO(5, "dreg", plate=None), 0.05),
}
"""Estimators, and what share of the gap may be left."""

GUIDES = [
    autoguide.AutoHierarchicalNormalMessenger,
    pytest.param(autoguide.AutoDiagonalNormal, marks=pytest.mark.slow),
    pytest.param(autoguide.AutoMultivariateNormal, marks=pytest.mark.slow),
    pytest.param(autoguide.AutoStructured, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("estimator", WHOLE)
def test_svi_trains_an_automatic_guide_to_the_posterior(estimator):
    make, share = WHOLE[estimator]
    guide = autoguide.AutoNormal(normal, init_scale=1.0)
    guide(X)
    before = gap(guide)
    train(normal, guide, X, estimator=make(), steps=80)
    assert gap(guide) < share * before


@pytest.mark.parametrize("kind", GUIDES)
def test_automatic_guides_of_a_mixture_are_trained(kind):
    hidden = poutine.block(mixture, hide=["y"])
    guide = kind(hidden)
    before, after = train(mixture, guide, X, estimator=ImportanceWeightedELBO(4, plate=None))
    assert after < before - 1


@pytest.fixture
def trained():
    """Return a guide of the mixture, trained with the estimator."""
    guide = autoguide.AutoNormal(poutine.block(mixture, hide=["y"]))
    train(mixture, guide, X, estimator=ImportanceWeightedELBO(4, plate=None), steps=25)
    return guide


def test_predictive_draws_from_a_trained_guide(trained):
    draws = Predictive(mixture, guide=trained, num_samples=100)()
    assert draws["x"].shape == (100, 5)
    loc, scale = trained._get_loc_and_scale("means")
    means = draws["means"].reshape(100, 2)
    assert ((means.mean(0) - loc).abs() < 4 * scale / math.sqrt(100)).all()


def test_discrete_sites_are_inferred_under_a_trained_guide(trained):
    replayed = poutine.replay(mixture, poutine.trace(trained).get_trace(X))
    labelled = infer_discrete(replayed, first_available_dim=-2, temperature=0)
    labels = poutine.trace(labelled).get_trace(X).nodes["y"]["value"]
    assert labels.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]


def test_dependencies_are_those_of_the_untrained_program(trained):
    found = get_dependencies(mixture, (X,))
    pyro.clear_param_store()
    assert found == get_dependencies(mixture, (X,))
    assert found["prior_dependencies"]["x"].keys() == {"x", "means", "y"}
    assert found["posterior_dependencies"]["weight"].keys() == {"weight", "y"}


def test_relations_of_a_program_are_found_after_training(trained):
    relations = get_model_relations(mixture, (X,))
    assert relations["plate_sample"] == {"data": ["y", "x"]}
    assert relations["observed"] == ["x"]


def test_a_trained_program_is_drawn(trained, monkeypatch):
    graphviz = MagicMock()
    monkeypatch.setitem(sys.modules, "graphviz", graphviz)
    graph = pyro.render_model(mixture, (X,), render_distributions=True, render_params=True)
    assert graph is graphviz.Digraph.return_value
    calls = [call for call in graphviz.mock_calls if call[0].endswith("node")]
    assert {call.args[0] for call in calls} >= {"weight", "means", "y", "x"}


class Regression(PyroModule):
    """y ~ N(w x + b, s): w and b are sampled, s is learned."""

    def __init__(self):
        super().__init__()
        self.weight = PyroSample(dist.Normal(0.0, 1.0))
        self.bias = PyroSample(dist.Normal(0.0, 1.0))
        self.scale = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)

    def forward(self, x, y=None):
        mean = pyro.deterministic("mean", self.weight * x + self.bias)
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(mean, self.scale), obs=y)


def by_svi(model, guide, *args):
    train(model, guide, *args, estimator=ImportanceWeightedELBO(3, plate=None))


def as_a_module(model, guide, *args):
    elbo = ImportanceWeightedELBO(3, plate=None)(model, guide)
    elbo(*args)
    optimizer = torch.optim.Adam(elbo.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        elbo(*args).backward()
        optimizer.step()


@pytest.mark.parametrize("fit", [by_svi, as_a_module])
def test_a_pyro_module_is_trained(fit):
    x = torch.linspace(-2.0, 2.0, 20)
    y = 1.5 * x - 0.5 + 0.1 * torch.randn(20)
    model = Regression()
    guide = autoguide.AutoDiagonalNormal(model)
    guide(x, y)
    bound = ImportanceWeightedELBO(50, plate=None)
    before = bound.loss(model, guide, x, y)
    fit(model, guide, x, y)
    assert bound.loss(model, guide, x, y) < before - 5
    assert model.scale < 1.0
    drawn = Predictive(model, guide=guide, num_samples=50)(x)
    assert drawn["y"].shape == (50, 20)


def test_svi_evaluates_the_loss_it_trains():
    guide = autoguide.AutoNormal(normal)
    svi = SVI(normal, guide, pyro.optim.Adam({"lr": 0.0}), ImportanceWeightedELBO(3, plate=None))
    pyro.set_rng_seed(1)
    guide(X)
    pyro.set_rng_seed(1)
    evaluated = svi.evaluate_loss(X)
    pyro.set_rng_seed(1)
    assert float(svi.step(X)) == pytest.approx(evaluated, rel=1e-6)


def test_learning_rate_schedules_and_clipped_optimizers_are_used():
    guide = autoguide.AutoNormal(normal)
    optimizer = pyro.optim.ClippedAdam({"lr": 0.05, "clip_norm": 1.0, "lrd": 0.99})
    svi = SVI(normal, guide, optimizer, ImportanceWeightedELBO(3, plate=None))
    guide(X)
    before = gap(guide)
    for _ in range(40):
        svi.step(X)
    assert gap(guide) < before
    schedule = pyro.optim.StepLR(
        {"optimizer": torch.optim.SGD, "optim_args": {"lr": 1e-3}, "step_size": 1, "gamma": 0.5}
    )
    svi = SVI(normal, guide, schedule, ImportanceWeightedELBO(3, plate=None))
    assert math.isfinite(svi.step(X))
    schedule.step()


def test_estimators_of_pyro_go_on_from_a_trained_guide(trained):
    ours = ImportanceWeightedELBO(1, plate=None)
    theirs = TraceEnum_ELBO(max_plate_nesting=1)
    pyro.set_rng_seed(2)
    value = ours.loss(mixture, trained, X)
    pyro.set_rng_seed(2)
    assert theirs.loss(mixture, trained, X) == pytest.approx(value, rel=1e-5)
