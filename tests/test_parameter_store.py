"""Pyro's parameter store holds what somebody trains through it, and nothing else.

Right values: an empty store, and weak references that are dead at once, without the collector of
cycles; under SVI the parameters themselves, each once.
"""

import contextlib
import copy
import gc
import io
import pickle
import warnings
import weakref

import pyro
import pytest
import torch
from pairs import binary, ssvae, vae
from pyro import poutine
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    Predictive,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoNormal
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK

from ppl_vae import VAE, evaluation, likelihoods, testing, training
from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO, KLWeighted
from ppl_vae.evaluation import annealing

X = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)).round()


def quietly(function):
    def run(pair):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(pair)

    return run


# One estimator for all pairs, as in a loop over models.
ONE, WEIGHTED = ImportanceWeightedELBO(3), KLWeighted(ImportanceWeightedELBO(3), 0.5)
LEAVES_NO_TRACE = {
    "elbo_terms": lambda p: evaluation.elbo_terms(p, X),
    "importance_bounds": lambda p: evaluation.importance_bounds(p, X, num_particles=(1, 4)),
    "log_likelihood": quietly(lambda p: evaluation.log_likelihood(p, X, num_samples=30)),
    "annealed": lambda p: evaluation.annealed_importance_sampling(
        p, X, num_chains=2, num_temperatures=2
    ),
    "bidirectional": lambda p: evaluation.bidirectional_monte_carlo(
        p, 3, num_chains=2, num_temperatures=2
    ),
    "kl_decomposition": lambda p: evaluation.kl_decomposition(p, X),
    "latent_units": quietly(lambda p: evaluation.latent_units(p, X, num_samples=2)),
    "inference_gap": quietly(
        lambda p: evaluation.inference_gap(p, X, steps=2, importance_samples=5, num_samples=5)
    ),
    "relations": lambda p: evaluation.relations(p.model, X),
    "generate": lambda p: p.generate(3),
    "encode": lambda p: p.encode(X),
    "reconstruct": lambda p: p.reconstruct(X),
    "impute": lambda p: p.impute(X, X > 0, num_particles=4),
    "program": lambda p: (p.guide(X), p.model(X)),
    "trace": lambda p: poutine.trace(p.model).get_trace(X),
    "Predictive": lambda p: Predictive(p.model, num_samples=2)(size=2),
    "fit": lambda p: training.fit(p, X, steps=2, batch_size=3, progress=False),
    "loss": lambda p: ONE.loss(p.model, p.guide, X),
    "per_datum": lambda p: ONE.per_datum(p.model, p.guide, X),
    "log_weights": lambda p: ONE.log_weights(p.model, p.guide, X),
    "differentiable_loss": lambda p: ONE.differentiable_loss(p.model, p.guide, X).backward(),
    "loss_and_grads": lambda p: ONE.loss_and_grads(p.model, p.guide, X),
    "module": lambda p: ONE(p.model, p.guide)(X).backward(),
    "chunks": lambda p: ImportanceWeightedELBO(3, "dreg", chunk_size=1)(p.model, p.guide)(
        X
    ).backward(),
    "analytic": lambda p: AnalyticKLELBO()(p.model, p.guide)(X).backward(),
    "weighted": lambda p: WEIGHTED(p.model, p.guide)(X).backward(),
    "evaluate_loss": lambda p: SVI(
        p.model, p.guide, pyro.optim.Adam({}), Trace_ELBO()
    ).evaluate_loss(X),
}
for estimator in (
    Trace_ELBO(num_particles=2, vectorize_particles=True),
    TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    TraceMeanField_ELBO(),
):
    name = type(estimator).__name__
    LEAVES_NO_TRACE[name] = lambda p, e=estimator: e(p.model, p.guide)(X).backward()


@pytest.fixture
def little_tuning(monkeypatch):
    """Tune step sizes in a few transitions."""
    monkeypatch.setattr(annealing, "_WARM_UP", 1)
    monkeypatch.setattr(annealing, "_FEWEST_TUNED", 3)


@pytest.mark.parametrize("function", LEAVES_NO_TRACE)
def test_evaluation_leaves_no_trace_and_keeps_nothing_alive(
    function, little_tuning, as_users_see_it
):
    alive = []
    for _ in range(3):
        pair = vae()
        LEAVES_NO_TRACE[function](pair)
        assert not pyro.get_param_store().keys()
        alive += [weakref.ref(tensor) for tensor in (pair, *pair.parameters())]
        gc.disable()  # they go with the last name for them, not some day
        try:
            del pair
            assert not any(ref() is not None for ref in alive)
        finally:
            gc.enable()


def test_oracles_leave_no_trace():
    oracle = testing.LinearGaussian(3, 2)
    x = torch.randn(4, 3, dtype=torch.float64)
    ONE.loss(oracle.model, oracle.guide, x)
    Trace_ELBO().loss(oracle.model, oracle.guide, x)
    assert not pyro.get_param_store().keys()


ESTIMATORS = {
    "ours": lambda: ImportanceWeightedELBO(2, "dreg"),
    "weighted": lambda: KLWeighted(AnalyticKLELBO(), 0.5),
    "Trace": Trace_ELBO,
    "TraceGraph": TraceGraph_ELBO,
    "TraceEnum": lambda: TraceEnum_ELBO(strict_enumeration_warning=False),  # guesses under a block
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_svi_registers_each_parameter_once_and_trains_it(name):
    pair, estimator = vae(), ESTIMATORS[name]()
    before = copy.deepcopy(list(pair.parameters()))
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), estimator)
    for _ in range(2):
        svi.step(X)
    stored = [pyro.param(name).unconstrained() for name in pyro.get_param_store()]
    assert {id(p) for p in stored} >= {id(p) for p in pair.parameters()}
    assert len(stored) == len({id(p) for p in stored})
    for old, new in zip(before, pair.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_a_loop_that_collects_as_svi_does_trains():
    # Pyro's tutorial on custom objectives.
    pair, x = vae(), binary()
    optimizer = pyro.optim.Adam({"lr": 0.1})
    before = copy.deepcopy(list(pair.parameters()))
    with poutine.trace(param_only=True) as capture:
        Trace_ELBO().differentiable_loss(pair.model, pair.guide, x).backward()
    found = {site["value"].unconstrained() for site in capture.trace.nodes.values()}
    assert found == set(pair.parameters())
    optimizer(found)
    assert not any(map(torch.equal, before, pair.parameters()))


def test_blocked_parameters_are_not_registered():
    pair = vae()
    with poutine.trace(param_only=True) as capture, poutine.block():
        pair.model(X)
    assert not capture.trace.nodes
    assert not pyro.get_param_store().keys()
    with poutine.trace(param_only=True) as capture, poutine.block(hide_types=["sample"]):
        pair.model(X)
    assert len(capture.trace.nodes) == len(list(pair.model.parameters()))


def test_a_trace_shows_the_parameters():
    pair = vae("mixture")
    trace = poutine.trace(pair.model).get_trace(X)
    shown = [trace.nodes[name]["value"].unconstrained() for name in trace.param_nodes]
    assert {id(p) for p in shown} == {id(p) for p in pair.model.parameters()}
    drawn = pyro.infer.inspect.get_model_relations(pair.model, (X,))["param_constraint"]
    assert len(drawn) == len(shown)
    assert not pyro.get_param_store().keys()


def test_handlers_that_replace_parameters_are_refused():
    pair = vae()
    name = next(poutine.trace(pair.model).get_trace(X).param_nodes.__iter__())
    other = {name: torch.zeros_like(next(pair.model.parameters()))}
    with pytest.raises(RuntimeError, match="silently not be trained"):
        poutine.substitute(pair.model, data=other)(X)
    with pytest.raises(RuntimeError, match=r"poutine\.lift"):
        poutine.lift(pair.model, prior=pyro.distributions.Normal(0.0, 1.0))(X)


def test_autoguides_and_nuts_run_on_a_model():
    pair = vae()
    guide = AutoNormal(poutine.block(pair.model, hide_types=["param"]))
    svi = SVI(pair.model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    before = copy.deepcopy(list(pair.model.parameters()))
    svi.step(X)
    assert not any(map(torch.equal, before, pair.model.parameters()))
    pyro.clear_param_store()
    kernel = NUTS(pair.model, max_tree_depth=2)
    mcmc = MCMC(kernel, num_samples=2, warmup_steps=2, disable_progbar=True)
    mcmc.run(X)
    assert mcmc.get_samples()["z"].shape == (2, *X.shape[:1], 2)
    assert not pyro.get_param_store().keys()


def test_users_programs_register_as_in_plain_pyro():
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(0.0, scale))
            pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal(x / 2, 1.0))

    ImportanceWeightedELBO(2).loss(model, guide, torch.randn(3))
    assert list(pyro.get_param_store().keys()) == ["scale"]


@pytest.mark.parametrize("how", ["SVI", "trace", "elbo_terms"])
def test_a_pair_can_be_pickled_afterwards(how):
    pair = vae()
    if how == "SVI":
        SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(X)
    else:
        LEAVES_NO_TRACE[how](pair)
    again = pickle.loads(pickle.dumps(pair))
    torch.save(pair, io.BytesIO())
    for ours, theirs in zip(pair.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    pyro.clear_param_store()
    before = copy.deepcopy(list(again.parameters()))
    SVI(again.model, again.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(X)
    assert not any(map(torch.equal, before, again.parameters()))


def failing():
    pair, good = vae(), vae()

    def fail(*_):
        raise KeyboardInterrupt

    pair.likelihood.register_forward_hook(fail)
    return pair, good


@pytest.mark.parametrize("function", [f for f in LEAVES_NO_TRACE if f != "encode"])
def test_an_interrupt_leaves_no_handler_behind(function, little_tuning, as_users_see_it):
    pair, good = failing()
    with pytest.raises(KeyboardInterrupt):
        LEAVES_NO_TRACE[function](pair)
    assert not _PYRO_STACK
    assert not _DIM_ALLOCATOR._stack
    assert pyro.infer.util.is_validation_enabled()
    LEAVES_NO_TRACE[function](good)


def test_a_warm_up_goes_on_from_pair_to_pair_and_runs_each_once_more():
    estimator, calls = KLWeighted(ImportanceWeightedELBO(1), lambda step: 0.1 * step), []
    for pair in (vae(), ssvae()):
        handle = pair.posterior.register_forward_hook(lambda *_: calls.append(1))
        for _ in range(3):
            estimator(pair.model, pair.guide)(X)
        handle.remove()
    assert estimator.step == 6
    assert len(calls) == 2 * (3 + 1)  # a first look at each pair finds its plates


def test_a_kl_weight_is_the_same_inside_users_handlers():
    # Plates are looked for anew where a handler may change them.
    pair = vae()
    estimator = KLWeighted(ImportanceWeightedELBO(2), 0.5)
    plated = [pyro.plate("twice", 2, dim=-2)(p) for p in (pair.model, pair.guide)]
    estimator.loss_and_grads(pair.model, pair.guide, X)
    estimator.loss_and_grads(*plated, X)
    estimator.loss_and_grads(pair.model, pair.guide, X)


def test_nothing_is_kept_of_a_trainings_own_store():
    pair, other = vae(), vae()
    SVI(other.model, other.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(X)
    before = dict(pyro.get_param_store().named_parameters())
    with contextlib.suppress(KeyboardInterrupt):
        training.fit(failing()[0], X, steps=2, batch_size=3, progress=False)
    training.fit(pair, X, steps=2, batch_size=3, progress=False)
    after = dict(pyro.get_param_store().named_parameters())
    assert {k: id(v) for k, v in before.items()} == {k: id(v) for k, v in after.items()}


def test_parts_may_be_any_module_with_tensors_that_do_not_train():
    pair = VAE(
        prior=vae("mixture").prior,
        posterior=vae().posterior,
        likelihood=likelihoods.Normal(vae().likelihood.net, "learned"),
    )
    pair.prior.requires_grad_(False)
    trace = poutine.trace(pair.model).get_trace(torch.randn(3, 6))
    trained = [p for p in pair.model.parameters() if p.requires_grad]
    assert len(list(trace.param_nodes)) == len(trained)
