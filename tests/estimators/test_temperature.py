"""A scheduled temperature: where it goes, when its schedule steps, what it leaves alone."""

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import D, W, binary, code_vae, net, vae
from pyro import poutine
from pyro.infer import Trace_ELBO

from ppl_vae import posteriors
from ppl_vae.distributions.straight_through import StraightThroughBernoulli
from ppl_vae.estimators import (
    AnalyticKLELBO,
    ImportanceWeightedELBO,
    KLWeighted,
    Temperature,
    TemperatureScheduled,
    linear_warm_up,
)
from ppl_vae.training import compile_step, fit

ESTIMATORS = {
    "elbo": lambda: Trace_ELBO(3, vectorize_particles=True, max_plate_nesting=1),
    "importance weighted": lambda: ImportanceWeightedELBO(3),
    "dreg": lambda: ImportanceWeightedELBO(3, "dreg"),
    "closed forms": lambda: AnalyticKLELBO(3, monte_carlo=True),
}
VALUES = ("binary", "one-hot")


def with_temperature(pair, temperature):
    """Return a pair that shares all networks, with a posterior of another temperature."""
    options = {"binary": {}, "one-hot": {"categories": 3}}
    kinds = {"binary": posteriors.RelaxedBernoulli, "one-hot": posteriors.RelaxedOneHotCategorical}
    name = "one-hot" if hasattr(pair.posterior, "categories") else "binary"
    q = kinds[name](pair.posterior.net, temperature=temperature, **options[name])
    return pair.replace(posterior=q)


def loss_and_gradients(estimator, pair, x):
    torch.manual_seed(1)
    loss = estimator.differentiable_loss(pair.model, pair.guide, x)
    return loss.detach(), torch.autograd.grad(loss, list(pair.parameters()), materialize_grads=True)


def assert_same(one, other):
    torch.testing.assert_close(one[0], other[0])
    for ours, right in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(ours, right)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_is_that_of_posteriors_of_this_temperature(name, values, float64):
    pair, x = code_vae(values), binary(4).double()
    for tau in (0.1, torch.tensor(2.0)):
        scheduled = TemperatureScheduled(ESTIMATORS[name](), float(tau))
        ours = loss_and_gradients(scheduled, pair, x)
        if isinstance(tau, torch.Tensor):
            with scheduled.value_is(tau):
                assert_same(loss_and_gradients(scheduled, pair, x), ours)
        right = loss_and_gradients(ESTIMATORS[name](), with_temperature(pair, float(tau)), x)
        assert_same(ours, right)
        plain = loss_and_gradients(ESTIMATORS[name](), pair, x)
        torch.testing.assert_close(ours[0], plain[0])  # the bound is that of the discrete model
        with pytest.raises(AssertionError):
            assert_same(ours, plain)


def test_goes_through_masks_events_and_expansions_and_leaves_others_alone():
    relaxed = StraightThroughBernoulli(0.5, torch.zeros(3, 2)).to_event(1)
    mask = torch.tensor([True, False, True])
    sites = {
        "plain": relaxed,
        "masked": relaxed.mask(mask),
        "expanded": dist.ExpandedDistribution(relaxed.base_dist, (5, 3, 2)),
        "normal": dist.Normal(torch.zeros(3, 2), 1.0).to_event(1),
    }

    def program():
        for name, fn in sites.items():
            pyro.sample(name, fn)

    trace = poutine.trace(Temperature(0.1)(program)).get_trace()
    for name, fn in sites.items():
        new = trace.nodes[name]["fn"]
        assert (new.batch_shape, new.event_shape) == (fn.batch_shape, fn.event_shape)
        if name == "normal":
            assert new is fn
            continue
        while not isinstance(new, StraightThroughBernoulli):
            new = new.base_dist
        assert new.temperature == 0.1
    assert torch.equal(trace.nodes["masked"]["fn"]._mask, mask)
    assert relaxed.base_dist.temperature == 0.5


def test_each_call_is_a_step_in_either_order():
    x = binary(4)
    falling = linear_warm_up(10, start=1.0, end=0.5)
    for inner, outer in (
        (lambda e: KLWeighted(e, linear_warm_up(4)), lambda e: TemperatureScheduled(e, falling)),
        (lambda e: TemperatureScheduled(e, falling), lambda e: KLWeighted(e, linear_warm_up(4))),
    ):
        estimator = outer(inner(Trace_ELBO()))
        both = {type(e): e for e in (estimator, estimator.estimator)}
        pair = code_vae("binary")
        for step in range(3):
            assert both[TemperatureScheduled].temperature == pytest.approx(1 - step * 0.05)
            assert both[KLWeighted].beta == step / 4
            estimator.differentiable_loss(pair.model, pair.guide, x)
        estimator.loss(pair.model, pair.guide, x)  # no step
        assert {e.step for e in both.values()} == {3}
        again = pickle.loads(pickle.dumps(estimator))
        assert again.step == again.estimator.step == 3


@pytest.mark.parametrize("order", ["temperature of β", "β of temperature"])
@pytest.mark.usefixtures("as_users_see_it")
def test_compiled_steps_follow_both_schedules(order, monkeypatch):
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )
    x, curves = binary(4), []
    falling = linear_warm_up(4, start=1.0, end=0.2)
    for compiled in (True, False):
        pyro.set_rng_seed(0)
        pair = code_vae("binary")
        bound = ImportanceWeightedELBO(2, max_plate_nesting=1)
        if order == "β of temperature":
            estimator = KLWeighted(TemperatureScheduled(bound, falling), linear_warm_up(4))
            estimator.estimator.step = 1
        else:
            estimator = TemperatureScheduled(KLWeighted(bound, linear_warm_up(4)), falling)
            estimator.step = 1
        optimizer = torch.optim.SGD(pair.parameters(), lr=0.1)
        step = compile_step(pair, estimator, optimizer)
        pyro.set_rng_seed(1)
        for _ in range(4):
            if compiled:
                step(x)
            else:
                optimizer.zero_grad()
                (estimator.differentiable_loss(pair.model, pair.guide, x) / len(x)).backward()
                optimizer.step()
        assert {estimator.step, estimator.estimator.step} == {4, 5}
        curves.append(list(pair.parameters()))
    for ours, right in zip(*curves, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-5)


def scheduled(steps=0):
    bound = KLWeighted(ImportanceWeightedELBO(2), linear_warm_up(4))
    estimator = TemperatureScheduled(bound, linear_warm_up(4, start=1.0, end=0.2))
    estimator.step = steps
    return estimator


def test_a_training_resumes_at_its_temperature(tmp_path):
    x = binary(8)
    options = {"batch_size": 4, "log_every": 1, "checkpoint_every": 2, "progress": False}
    found = []
    for stops in ((4,), (2, 4)):
        folder = tmp_path / str(len(stops))
        for steps in stops:
            pyro.set_rng_seed(0)
            pair, estimator = code_vae("binary"), scheduled(1)
            result = fit(
                pair, x, steps=steps, estimator=estimator, out=folder, resume=True, **options
            )
            assert (estimator.step, estimator.estimator.step) == (1, 0)
        found.append((list(pair.parameters()), result.history))
    assert all(map(torch.equal, found[0][0], found[1][0]))
    assert list(found[1][1]["temperature"]) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert list(found[1][1]["beta"]) == [0.0, 0.25, 0.5, 0.75]
    with pytest.raises(ValueError, match=r"temperature\.step was 1 and is now 0"):
        fit(
            code_vae("binary"),
            x,
            steps=5,
            estimator=scheduled(),
            out=folder,
            resume=True,
            **options,
        )


def test_beta_of_fit_goes_around_a_temperature():
    x, pair = binary(8), code_vae("one-hot")
    estimator = TemperatureScheduled(ImportanceWeightedELBO(2), 0.3)
    result = fit(
        pair, x, steps=2, batch_size=4, estimator=estimator, beta=0.5, log_every=1, progress=False
    )
    assert list(result.history["beta"]) == [0.5, 0.5]
    assert list(result.history["temperature"]) == [0.3, 0.3]
    for twice, name in ((KLWeighted(scheduled(), 1), "beta"), (twofold(), "temperature")):
        with pytest.raises(ValueError, match=f"schedules the {name} twice"):
            fit(pair, x, steps=1, estimator=twice, progress=False)
    with pytest.raises(ValueError, match="has a weight on the KL already"):
        fit(pair, x, steps=1, estimator=scheduled(), beta=0.5, progress=False)


def twofold():
    return TemperatureScheduled(TemperatureScheduled(ImportanceWeightedELBO(1), 1), 1)


def test_a_temperature_that_is_not_above_0_is_refused_at_its_step():
    pair, x = code_vae("binary"), binary(4)
    estimator = TemperatureScheduled(Trace_ELBO(), lambda step: 1.0 - step)
    estimator.differentiable_loss(pair.model, pair.guide, x)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"schedule at step 1: temperature must be .* above 0"):
            estimator.differentiable_loss(pair.model, pair.guide, x)
        assert estimator.step == 1


def test_pairs_without_a_temperature_are_trained_as_they_are():
    pair, x = vae(), binary(4)
    ours = loss_and_gradients(TemperatureScheduled(Trace_ELBO(), 0.1), pair, x)
    assert_same(ours, loss_and_gradients(Trace_ELBO(), pair, x))


def test_the_posterior_keeps_its_temperature():
    q = posteriors.RelaxedBernoulli(net(D, W), temperature=2)
    assert q.temperature == 2
    assert q(binary(3)).base_dist.temperature == 2
