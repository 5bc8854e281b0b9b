"""A weight on the KL: where it goes, when its schedule steps, what it leaves alone."""

import math
import pickle
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import C, Z, binary, ssvae, vae
from pairwise import cross
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO

from ppl_vae.estimators import (
    AnalyticKLELBO,
    ImportanceWeightedELBO,
    KLWeight,
    KLWeighted,
    constant,
    cyclical_warm_up,
    linear_warm_up,
)
from ppl_vae.testing import DiscreteLinearGaussian, LinearGaussian

D = 3
BETA = 0.3
ESTIMATORS = {
    "trace": lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "trace enum": lambda: TraceEnum_ELBO(max_plate_nesting=1),
    "importance": lambda: ImportanceWeightedELBO(5),
    "dreg": lambda: ImportanceWeightedELBO(5, "dreg"),
    "in chunks": lambda: ImportanceWeightedELBO(5, chunk_size=2),
    "analytic": lambda: AnalyticKLELBO(3),
}
ALL = pytest.mark.parametrize("name", ESTIMATORS)
# Pyro's own enumerating estimator wants something to enumerate.
WITHOUT_LABELS = pytest.mark.parametrize("name", [n for n in ESTIMATORS if n != "trace enum"])


def data(batch=5):
    return torch.randn(batch, D, dtype=torch.float64)


def seeded(fn, *args, seed=1):
    torch.manual_seed(seed)
    return fn(*args)


def loss_and_gradients(estimator, pair, *args, model=None, guide=None):
    """The differentiable loss at one seed and its gradients."""
    model, guide = model or pair.model, guide or pair.guide
    loss = seeded(estimator.differentiable_loss, model, guide, *args)
    gradients = torch.autograd.grad(loss, list(pair.parameters()), materialize_grads=True)
    return loss.item(), gradients


def assert_same(got, expected):
    assert got[0] == pytest.approx(expected[0], rel=1e-12)
    for one, other in zip(got[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def draws(guide, *args, enumerated=False):
    """The latents that an estimator of one particle draws at this seed."""
    torch.manual_seed(1)
    guide = poutine.enum(guide, first_available_dim=-2) if enumerated else guide
    return {
        name: site["value"]
        for name, site in poutine.trace(guide).get_trace(*args).iter_stochastic_nodes()
    }


# Where the weight goes.


@cross(
    name=[n for n in ESTIMATORS if n != "trace enum"],
    size=[None, 50],
    beta=[BETA, 2, torch.tensor(BETA, dtype=torch.float64)],
)
def test_is_poutine_scale_around_the_latents(name, size, beta):
    x = data()
    plain = LinearGaussian(D, 2, size=size)
    scaled = LinearGaussian(D, 2, size=size, beta=float(beta))
    model, guide = KLWeight(beta)(plain.model), KLWeight(beta)(plain.guide)
    got = loss_and_gradients(ESTIMATORS[name](), plain, x, model=model, guide=guide)
    expected = loss_and_gradients(ESTIMATORS[name](), scaled, x)
    assert_same(got, expected)
    with pytest.raises(AssertionError):
        assert_same(loss_and_gradients(ESTIMATORS[name](), plain, x), expected)


@WITHOUT_LABELS
def test_weighted_estimator_is_the_weight_on_both_programs(name):
    x = data()
    plain = LinearGaussian(D, 2, size=50)
    scaled = LinearGaussian(D, 2, size=50, beta=BETA)
    weighted = KLWeighted(ESTIMATORS[name](), BETA)
    assert_same(
        loss_and_gradients(weighted, plain, x), loss_and_gradients(ESTIMATORS[name](), scaled, x)
    )


@WITHOUT_LABELS
def test_weight_zero_leaves_the_likelihood(name):
    oracle, x = LinearGaussian(D, 2, size=50), data()
    k = {"trace": 3, "analytic": 3}.get(name, 5)
    z = draws(pyro.plate("num_particles_vectorized", k, dim=-2)(oracle.guide), x)["z"]
    rec = oracle.model.likelihood.log_density(x, z)
    rec = rec.mean(0) if k == 3 else rec.logsumexp(0) - math.log(k)
    loss, gradients = loss_and_gradients(KLWeighted(ESTIMATORS[name](), 0), oracle, x)
    assert loss == pytest.approx(-10 * rec.sum().item(), rel=1e-12)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[0] == 0).all()  # of the prior's location


def test_scales_the_latents_and_neither_observations_nor_subsampling():
    mask = torch.tensor([True, False, True, True, False])
    oracle, x = LinearGaussian(D, 2, size=50, mask=mask), data()
    for program in (oracle.model, oracle.guide):
        plain = poutine.trace(program).get_trace(x)
        trace = poutine.trace(KLWeight(BETA)(program)).get_trace(x)
        scales = {name: site["scale"] for name, site in trace.iter_stochastic_nodes()}
        assert scales == pytest.approx({"data": 1.0, "z": 10 * BETA})
        assert trace.nodes["z"]["mask"] is plain.nodes["z"]["mask"]
        if "x" in trace.nodes:
            assert trace.nodes["x"]["scale"] == plain.nodes["x"]["scale"] == 10


def test_is_multiplied_with_other_weights():
    def model(x):
        with pyro.plate("data", len(x)), poutine.scale(scale=0.5):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    nodes = poutine.trace(KLWeight(0.2)(KLWeight(BETA)(model))).get_trace(torch.ones(4)).nodes
    assert nodes["z"]["scale"] == pytest.approx(0.5 * 0.2 * BETA)
    assert nodes["x"]["scale"] == 0.5


def test_a_tensor_as_weight_takes_gradients():
    oracle, x = LinearGaussian(D, 2), data()
    beta = torch.tensor(BETA, dtype=torch.float64, requires_grad=True)
    model, guide = KLWeight(beta)(oracle.model), KLWeight(beta)(oracle.guide)
    loss = AnalyticKLELBO().differentiable_loss(model, guide, x)
    (slope,) = torch.autograd.grad(loss, [beta])
    assert slope.item() == pytest.approx(oracle.kl_to_prior(x).sum().item(), rel=1e-10)


# Labels.


@pytest.mark.parametrize("name", ["trace enum", "importance", "in chunks", "analytic"])
def test_weights_an_enumerated_label_too(name):
    x = data()
    plain = DiscreteLinearGaussian(D, 2, C, size=50)
    scaled = DiscreteLinearGaussian(D, 2, C, size=50, beta=BETA)
    weighted = KLWeighted(ESTIMATORS[name](), BETA)
    assert_same(
        loss_and_gradients(weighted, plain, x), loss_and_gradients(ESTIMATORS[name](), scaled, x)
    )


@pytest.mark.parametrize("beta", [0.0, BETA])
def test_semisupervised_bound_of_trace_enum_by_hand(beta, float64):
    pair, x = ssvae(), binary()
    z = draws(pair.guide, x, enumerated=True)["z"]
    log_q = pair.classifier(x).logits.mT
    expected = torch.zeros(())
    for y in range(C):
        label = torch.nn.functional.one_hot(torch.full((len(x),), y), C).to(x.dtype)
        rec = pair.likelihood(z[y], label).log_prob(x)
        kl_z = pair.posterior(x, label).log_prob(z[y]) - pair.prior().log_prob(z[y])
        bound = rec - beta * (kl_z + log_q[y] + math.log(C))
        expected = expected - (log_q[y].exp() * bound).sum()
    loss, gradients = loss_and_gradients(KLWeighted(ESTIMATORS["trace enum"](), beta), pair, x)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", ["trace enum", "importance", "analytic"])
def test_observed_labels_and_the_classification_term_keep_their_weight(name, float64):
    pair, x, y = ssvae(alpha=2.0), binary(), torch.tensor([0, 1, 2, 1, 1, 2, 0])
    estimator = ESTIMATORS[name]()
    if name == "trace enum":  # no label is left to enumerate
        estimator = ESTIMATORS["trace"]()
    loss = seeded(KLWeighted(estimator, 0.0).differentiable_loss, pair.model, pair.guide, x, y)
    k = estimator.num_particles
    z = draws(pyro.plate("num_particles_vectorized", k, dim=-2)(pair.guide), x, y)["z"]
    label = torch.nn.functional.one_hot(y, C).to(x.dtype)
    rec = pair.likelihood(z, label.expand(k, -1, -1)).log_prob(x)
    rec = rec.logsumexp(0) - math.log(k) if name == "importance" else rec.mean(0)
    expected = rec + 2.0 * pair.classifier(x).log_prob(y) - math.log(C)
    assert loss.item() == pytest.approx(-expected.sum().item(), rel=1e-12)


# Values that are reported.


@WITHOUT_LABELS
def test_evaluation_is_of_the_bound_itself(name):
    oracle, x = LinearGaussian(D, 2), data()
    estimator = ESTIMATORS[name]()
    weighted = KLWeighted(ESTIMATORS[name](), linear_warm_up(10))
    svi = SVI(oracle.model, oracle.guide, pyro.optim.SGD({"lr": 0.0}), weighted)
    expected = seeded(estimator.loss, oracle.model, oracle.guide, x)
    for _ in range(2):
        assert seeded(weighted.loss, oracle.model, oracle.guide, x) == pytest.approx(expected)
        assert seeded(svi.evaluate_loss, x) == pytest.approx(expected, rel=1e-12)
        svi.step(x)
    assert weighted.step == 2
    assert isinstance(weighted.loss(oracle.model, oracle.guide, x), float)


# Schedules.


def test_linear_warm_up():
    schedule = linear_warm_up(100)
    assert [schedule(step) for step in (0, 25, 50, 99, 100, 101, 10**9)] == pytest.approx(
        [0, 0.25, 0.5, 0.99, 1, 1, 1]
    )
    assert schedule(100) == 1
    schedule = linear_warm_up(10, start=0.2, end=4)
    assert [schedule(step) for step in (0, 5, 10, 50)] == pytest.approx([0.2, 2.1, 4, 4])
    assert linear_warm_up(1)(0) == 0
    assert linear_warm_up(1)(1) == 1


def test_cyclical_warm_up_restarts():
    schedule = cyclical_warm_up(100)
    steps = (0, 25, 50, 75, 99, 100, 125, 199, 200, 10_000, 10_025)
    assert [schedule(step) for step in steps] == pytest.approx(
        [0, 0.5, 1, 1, 1, 0, 0.5, 1, 0, 0, 0.5]
    )
    schedule = cyclical_warm_up(10, rising=1.0, start=0.5, end=2.5)
    assert [schedule(step) for step in (0, 5, 9, 10)] == pytest.approx([0.5, 1.5, 2.3, 0.5])
    schedule = cyclical_warm_up(10, rising=0.2)
    assert [schedule(step) for step in (0, 1, 2, 9, 10)] == pytest.approx([0, 0.5, 1, 1, 0])


def test_constant():
    assert [constant(0.3)(step) for step in (0, 1, 10**9)] == [0.3] * 3
    assert constant(0)(7) == 0


@pytest.mark.parametrize("beta", [-0.1, math.inf, math.nan])
def test_invalid_weights_raise(beta):
    for make in (KLWeight, constant, lambda beta: KLWeighted(Trace_ELBO(), beta)):
        with pytest.raises(ValueError, match="beta must be finite and at least 0, got"):
            make(beta)


@pytest.mark.parametrize("steps", [0, -3])
def test_invalid_lengths_raise(steps):
    with pytest.raises(ValueError, match=r"linear_warm_up: steps must be 1 or more"):
        linear_warm_up(steps)
    with pytest.raises(ValueError, match=r"cyclical_warm_up: period must be 1 or more"):
        cyclical_warm_up(steps)
    with pytest.raises(ValueError, match=r"KLWeighted: total_steps must be 1 or more"):
        KLWeighted(Trace_ELBO(), 0.5, total_steps=steps)


@pytest.mark.parametrize("rising", [0.0, -0.5, 1.1, math.nan])
def test_invalid_rising_fractions_raise(rising):
    with pytest.raises(ValueError, match="rising must be above 0 and at most 1"):
        cyclical_warm_up(10, rising=rising)


def test_a_warm_up_longer_than_the_training_warns():
    for total, beta in [(50, "0.49"), (2, "0.01"), (99, "0.98")]:
        with pytest.warns(UserWarning, match=rf"longer.*last of {total} steps beta is {beta},"):
            KLWeighted(Trace_ELBO(), linear_warm_up(100), total_steps=total)
    with pytest.warns(UserWarning, match=r"at the last of 50 steps beta is 2\.53, .* reaches 1"):
        KLWeighted(Trace_ELBO(), linear_warm_up(100, start=4.0, end=1.0), total_steps=50)


@pytest.mark.parametrize(
    ("schedule", "total"),
    [
        (linear_warm_up(100), 101),
        (linear_warm_up(100), 10**6),
        (linear_warm_up(100), None),
        (constant(0.3), 1),
        (0.3, 5),
        (0, 5),
        (lambda step: 0.5, 5),
        (cyclical_warm_up(100), 1000),
    ],
)
def test_other_schedules_do_not_warn(schedule, total):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KLWeighted(Trace_ELBO(), schedule, total_steps=total)


# Steps.


def test_one_step_for_each_training_step_and_none_for_evaluation():
    oracle, x = LinearGaussian(D, 2), data()
    weighted = KLWeighted(Trace_ELBO(), linear_warm_up(4))
    module = weighted(oracle.model, oracle.guide)
    svi = SVI(oracle.model, oracle.guide, pyro.optim.SGD({"lr": 0.0}), weighted)
    taken = [
        (lambda: weighted.loss(oracle.model, oracle.guide, x), 0),
        (lambda: svi.evaluate_loss(x), 0),
        (lambda: weighted.loss_and_grads(oracle.model, oracle.guide, x), 1),
        (lambda: weighted.differentiable_loss(oracle.model, oracle.guide, x), 1),
        (lambda: svi.evaluate_loss(x), 0),
        (lambda: svi.step(x), 1),
        (lambda: module(x), 1),
        (lambda: svi.step(x), 1),
    ]
    step = 0
    for call, steps in taken:
        assert (weighted.step, weighted.beta) == (step, min(step / 4, 1))
        call()
        step += steps
    assert weighted.step == 5


def test_a_call_that_fails_takes_no_step():
    oracle = LinearGaussian(D, 2)
    weighted = KLWeighted(KLWeighted(Trace_ELBO(), 1.0), linear_warm_up(4))
    for method in ("differentiable_loss", "loss_and_grads"):
        with pytest.raises(RuntimeError, match="shapes"):
            getattr(weighted, method)(oracle.model, oracle.guide, data()[:, :1])
        assert weighted.step == weighted.estimator.step == 0
    weighted.loss_and_grads(oracle.model, oracle.guide, data())
    assert weighted.step == weighted.estimator.step == 1


@pytest.mark.parametrize("route", ["svi", "module"])
@WITHOUT_LABELS
def test_each_step_has_the_weight_of_the_schedule(name, route):
    oracle, x = LinearGaussian(D, 2), data()
    schedule = linear_warm_up(3, start=0.1, end=1.3)
    weighted = KLWeighted(ESTIMATORS[name](), schedule)
    train = weighted(oracle.model, oracle.guide)
    if route == "svi":
        train = SVI(oracle.model, oracle.guide, pyro.optim.SGD({"lr": 0.0}), weighted).step
    for step in range(5):
        loss = seeded(train, x)
        loss = loss.item() if isinstance(loss, torch.Tensor) else loss
        scaled = LinearGaussian(D, 2, beta=schedule(step))
        expected = seeded(ESTIMATORS[name]().loss, scaled.model, scaled.guide, x)
        assert loss == pytest.approx(expected, rel=1e-12)


def test_training_resumes_at_a_step():
    oracle, x = LinearGaussian(D, 2), data()
    first, second = (KLWeighted(Trace_ELBO(), linear_warm_up(10)) for _ in range(2))
    for _ in range(4):
        first.loss_and_grads(oracle.model, oracle.guide, x)
    second.step = first.step
    losses = [
        float(seeded(weighted.loss_and_grads, oracle.model, oracle.guide, x))
        for weighted in (first, second)
    ]
    assert losses[0] == losses[1]
    assert (second.step, second.beta) == (5, 0.5)


def test_a_gradient_taken_later_is_that_of_its_own_step():
    # The model is run again when differentiating, when the schedule has gone on.
    x, schedule = data(), linear_warm_up(4, start=0.1)
    oracle = LinearGaussian(D, 2)
    weighted = KLWeighted(ESTIMATORS["in chunks"](), schedule)
    losses = [seeded(weighted.differentiable_loss, oracle.model, oracle.guide, x) for _ in "123"]
    for step, loss in enumerate(losses):
        scaled = LinearGaussian(D, 2, beta=schedule(step))
        expected = loss_and_gradients(ESTIMATORS["in chunks"](), scaled, x)
        got = torch.autograd.grad(loss, list(oracle.parameters()))
        assert_same((loss.item(), got), expected)


# Training.


def counted(module):
    """Count the calls of a module."""
    calls = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("route", ["svi", "module"])
@pytest.mark.parametrize("name", ["trace", "trace enum", "importance", "dreg", "analytic"])
def test_each_step_runs_the_programs_once(name, route, float64):
    pair, x = (ssvae() if name == "trace enum" else vae()), binary()
    estimator = ESTIMATORS[name]()
    if name == "trace enum":
        estimator = TraceEnum_ELBO()  # finds the plates itself
    weighted = KLWeighted(estimator, linear_warm_up(3))
    model_calls, guide_calls = counted(pair.model), counted(pair.guide)
    train = weighted(pair.model, pair.guide)
    if route == "svi":
        train = SVI(pair.model, pair.guide, pyro.optim.SGD({"lr": 1e-3}), weighted).step
    train(x)  # the plates may be looked for, and whether particles are kept apart
    for calls in (model_calls, guide_calls):
        assert 1 <= len(calls) <= 6
        calls.clear()
    for _ in range(5):
        train(x)
    assert len(model_calls) == 5
    assert len(guide_calls) == 5


def test_can_be_used_with_another_pair():
    weighted = KLWeighted(ImportanceWeightedELBO(3), BETA)
    x = data()
    for seed in (0, 1, 0):
        plain, scaled = LinearGaussian(D, 2, seed=seed), LinearGaussian(D, 2, seed=seed, beta=BETA)
        assert_same(
            loss_and_gradients(weighted, plain, x),
            loss_and_gradients(ImportanceWeightedELBO(3), scaled, x),
        )


@pytest.mark.parametrize("route", ["svi", "module"])
@ALL
def test_every_parameter_trains(name, route, float64):
    pair, x = ssvae() if name == "trace enum" else vae("mixture, learned weights"), binary()
    estimator = ESTIMATORS[name]()
    if name == "analytic":
        estimator = AnalyticKLELBO(3, monte_carlo=True)
    weighted = KLWeighted(estimator, linear_warm_up(4, start=0.1), total_steps=5)
    before = {key: p.detach().clone() for key, p in pair.named_parameters()}
    if route == "svi":
        svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), weighted)
        for _ in range(3):
            assert math.isfinite(svi.step(x))
    else:
        module = weighted(pair.model, pair.guide)
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            module(x).backward()
            optimizer.step()
    assert weighted.step == 3
    for key, p in pair.named_parameters():
        assert not torch.equal(p, before[key]), key


def test_weight_zero_trains_no_prior(float64):
    pair, x = vae("mixture"), binary()
    KLWeighted(Trace_ELBO(), 0.0)(pair.model, pair.guide)(x).backward()
    assert pair.prior.loc.shape == (4, Z)
    assert (pair.prior.loc.grad == 0).all()
    assert all(p.grad.abs().sum() > 0 for p in pair.posterior.parameters())


def test_free_bits_and_a_weight_go_together(float64):
    pair, x = vae(), binary()
    estimator = AnalyticKLELBO(free_bits=1e-6)  # below every dimension: no effect
    got = loss_and_gradients(KLWeighted(estimator, BETA), pair, x)
    expected = loss_and_gradients(KLWeighted(AnalyticKLELBO(), BETA), pair, x)
    assert_same(got, expected)


def test_schedules_of_invalid_weights_raise():
    for make in (
        lambda: linear_warm_up(10, start=-1),
        lambda: linear_warm_up(10, end=math.nan),
        lambda: cyclical_warm_up(10, end=math.inf),
    ):
        with pytest.raises(
            ValueError, match=r"_warm_up: (start|end) must be finite and at least 0"
        ):
            make()


@pytest.mark.parametrize(
    ("schedule", "total_steps", "warns"),
    [
        (cyclical_warm_up(100), 1001, False),
        (cyclical_warm_up(1000), 100, True),
        (linear_warm_up(100), 100, False),
        (linear_warm_up(100), 99, True),
    ],
)
def test_only_a_warm_up_longer_than_the_training_warns(schedule, total_steps, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        KLWeighted(Trace_ELBO(), schedule, total_steps=total_steps)
    assert [("never reaches 1" in str(w.message)) for w in caught] == [True] * warns


def test_estimators_are_pickled_without_their_programs():
    elbo = KLWeighted(AnalyticKLELBO(), linear_warm_up(10))
    pair, x = vae(), binary()
    elbo(pair.model, pair.guide)(x)
    copied = pickle.loads(pickle.dumps(elbo))
    assert (copied.step, copied.beta) == (1, 0.1)
