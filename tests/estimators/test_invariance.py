"""What must not change a bound does not: β, masks, N/B, batches, chunks (property-based)."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import TraceEnum_ELBO

from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO
from ppl_vae.testing import (
    DiscreteLinearGaussian,
    LinearGaussian,
    MixturePriorLinearGaussian,
    TwoLayerLinearGaussian,
)

pytestmark = pytest.mark.usefixtures("as_users_see_it")
D = 3
GRADIENTS = st.sampled_from(["iwae", "dreg", "stl", "wake"])
PROGRAMS = st.sampled_from(
    [
        lambda **o: LinearGaussian(D, 2, **o),
        lambda **o: TwoLayerLinearGaussian(D, 2, 1, **o),
        lambda **o: DiscreteLinearGaussian(D, 2, 3, enumerate="guide", **o),
        lambda **o: DiscreteLinearGaussian(D, 2, 3, enumerate="model", **o),
    ]
)
quick = settings(max_examples=10, deadline=None)


def data(batch):
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, D, dtype=torch.float64, generator=generator)


def value_and_gradient(oracle, x, seed=1, **options):
    estimator = ImportanceWeightedELBO(**options, max_plate_nesting=1)
    torch.manual_seed(seed)
    loss = estimator(oracle.model, oracle.guide)(x)
    grads = torch.autograd.grad(loss, list(oracle.parameters()), materialize_grads=True)
    return loss.detach(), torch.cat([g.flatten() for g in grads])


def assert_same(a, b):
    for left, right in zip(a, b, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@quick
@given(PROGRAMS, GRADIENTS, st.integers(2, 9), st.integers(1, 9), st.integers(1, 4))
def test_chunks_change_neither_value_nor_gradient(make, gradient, k, chunk, batch):
    oracle, x = make(), data(batch)
    options = {"num_particles": k, "gradient": gradient}
    whole = value_and_gradient(oracle, x, **options)
    assert_same(whole, value_and_gradient(oracle, x, **options, chunk_size=chunk))


@quick
@given(PROGRAMS, GRADIENTS, st.integers(1, 6), st.integers(1, 5), st.integers(1, 1000))
def test_the_size_of_the_data_set_is_a_factor_of_the_bound(make, gradient, k, batch, times):
    oracle, x = make(size=batch * times), data(batch)
    loss, _ = value_and_gradient(oracle, x, num_particles=k, gradient=gradient)
    torch.manual_seed(1)
    estimator = ImportanceWeightedELBO(k, gradient, max_plate_nesting=1)
    bound = estimator.per_datum(oracle.model, oracle.guide, x)
    assert loss.item() == pytest.approx(-times * bound.sum().item(), rel=1e-12)


@quick
@given(PROGRAMS, GRADIENTS, st.integers(1, 6), st.lists(st.booleans(), min_size=1, max_size=6))
def test_masked_data_contribute_nothing(make, gradient, k, kept):
    x, mask = data(len(kept)), torch.tensor(kept)
    oracle = make(mask=mask)
    options = {"num_particles": k, "gradient": gradient}
    elsewhere = torch.where(mask.unsqueeze(-1), x, x + 1.0)
    assert_same(
        value_and_gradient(oracle, x, **options), value_and_gradient(oracle, elsewhere, **options)
    )
    if not any(kept):
        assert all((t.abs() < 1e-12).all() for t in value_and_gradient(oracle, x, **options))


@quick
@given(PROGRAMS, st.integers(1, 6), st.floats(0.1, 5.0))
def test_a_full_mask_and_a_beta_of_one_have_no_effect(make, k, beta):
    x = data(4)
    everything = torch.ones(4, dtype=torch.bool)
    options = {"num_particles": k}
    plain = value_and_gradient(make(), x, **options)
    assert_same(plain, value_and_gradient(make(mask=everything), x, **options))
    assert_same(plain, value_and_gradient(make(beta=1.0), x, **options))


@quick
@given(PROGRAMS, st.integers(1, 6), st.integers(2, 6))
def test_the_bound_of_a_datum_is_the_same_in_any_batch(make, k, batch):
    # At the same draws: the other data are changed, this one's bound is not.
    oracle, x = make(), data(batch)
    changed = x.clone()
    changed[1:] += 1.0
    bounds = []
    for values in (x, changed):
        torch.manual_seed(1)
        estimator = ImportanceWeightedELBO(k, max_plate_nesting=1)
        bounds.append(estimator.per_datum(oracle.model, oracle.guide, values))
    torch.testing.assert_close(bounds[0][0], bounds[1][0], rtol=1e-12, atol=1e-12)
    assert (bounds[0][1:] != bounds[1][1:]).all()


@quick
@given(st.integers(1, 5), st.integers(1, 5))
def test_bounds_are_ordered_in_groups_and_alpha(groups, k):
    """On the same draws: ELBO ≤ MIWAE ≤ IWAE of all, and the Rényi bound falls with α."""
    oracle, x = LinearGaussian(D, 2), data(4)

    def bound(**options):
        torch.manual_seed(1)
        estimator = ImportanceWeightedELBO(**options, max_plate_nesting=1)
        return estimator.per_datum(oracle.model, oracle.guide, x)

    total = groups * k
    elbo = bound(num_particles=total, alpha=1.0)
    miwae = bound(num_particles=k, num_groups=groups)
    iwae = bound(num_particles=total)
    assert (elbo <= miwae + 1e-9).all()
    assert (miwae <= iwae + 1e-9).all()
    torch.testing.assert_close(bound(num_particles=total, elbo_weight=1.0), elbo)
    alphas = [bound(num_particles=total, alpha=a) for a in (-1.0, 0.0, 0.3, 0.9, 1.0)]
    for higher, lower in itertools.pairwise(alphas):
        assert (lower <= higher + 1e-9).all()


def test_a_label_of_the_prior_enumerated_in_the_model_is_the_mixture_prior():
    # y enumerated in the model before z ~ p(z|y): the same as a mixture for p(z).
    oracle, x = MixturePriorLinearGaussian(D, 2, 3), data(5)
    mixture = oracle.model.prior()

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", mixture.mixture_distribution, infer={"enumerate": "parallel"})
            components = mixture.component_distribution.base_dist
            z = pyro.sample("z", dist.Normal(components.loc[y], components.scale[y]).to_event(1))
            pyro.sample("x", oracle.model.likelihood(z), obs=x)

    for gradient in ("iwae", "dreg"):
        results = []
        for program in (model, oracle.model):
            torch.manual_seed(1)
            estimator = ImportanceWeightedELBO(4, gradient, max_plate_nesting=1)
            loss = estimator.differentiable_loss(program, oracle.guide, x)
            results.append((loss, torch.autograd.grad(loss, list(oracle.guide.parameters()))))
        torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


def late_label(num_classes=3, *, again=False):
    """q(z|x) q(y|x,z), with y enumerated after the continuous site, and perhaps q(z2|y) after."""
    weight = torch.randn(num_classes, 2, dtype=torch.float64, requires_grad=True)
    loc = torch.randn(2, dtype=torch.float64, requires_grad=True)
    means = torch.randn(num_classes, 2, dtype=torch.float64)

    def normal(loc):
        return dist.Normal(loc, torch.ones(2, dtype=torch.float64)).to_event(1)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=torch.zeros(num_classes).double()))
            z = pyro.sample("z", normal(means[y]))
            if again:
                pyro.sample("z2", normal(means[y]))
            pyro.sample("x", normal(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(x + loc))
            q_y = dist.Categorical(logits=z @ weight.T)
            y = pyro.sample("y", q_y, infer={"enumerate": "parallel"})
            if again:
                pyro.sample("z2", normal(weight[y]))

    return model, guide, (weight, loc, means)


def test_a_label_enumerated_after_a_continuous_site():
    model, guide, (weight, loc, means) = late_label()
    x, k = data(5)[:, :2], 4
    torch.manual_seed(1)
    per_datum = ImportanceWeightedELBO(k).per_datum(model, guide, x)

    def normal(value, mean):
        return dist.Normal(mean, 1.0).log_prob(value).sum(-1)

    torch.manual_seed(1)
    z = torch.normal(torch.zeros(k, 5, 2).double(), torch.ones(k, 5, 2).double()) + x + loc
    log_q_y = torch.log_softmax(z @ weight.T, -1)
    joint = torch.stack([normal(z, means[c]) for c in range(3)], -1) - torch.tensor(3.0).log()
    joint = joint + normal(x, z).unsqueeze(-1)
    log_w = (log_q_y.exp() * (joint - log_q_y)).sum(-1) - normal(z, x + loc)
    torch.testing.assert_close(per_datum, log_w.exp().mean(0).log().detach())
    # K = 1 is TraceEnum_ELBO, value and gradient
    for enum in (TraceEnum_ELBO(max_plate_nesting=1), ImportanceWeightedELBO(1)):
        torch.manual_seed(1)
        loss = enum.differentiable_loss(model, guide, x)
        grads = torch.autograd.grad(loss, [weight, loc])
        if isinstance(enum, TraceEnum_ELBO):
            expected = loss, grads
    torch.testing.assert_close((loss, grads), expected, rtol=1e-10, atol=1e-10)


def test_an_inner_label_keeps_its_gradient_without_the_direct_term():
    # K = 1: path-wise gradients have the mean of the full one; 4.5 standard errors over draws.
    model, guide, (weight, loc, _) = late_label()
    x = data(1)[:, :2].expand(2000, 2)

    def gradients(kind):
        rows = []
        for _ in range(40):
            elbo = ImportanceWeightedELBO(1, kind, max_plate_nesting=1)
            loss = elbo.differentiable_loss(model, guide, x) / len(x)
            grads = torch.autograd.grad(loss, [weight, loc])
            rows.append(torch.cat([g.flatten() for g in grads]))
        rows = torch.stack(rows)
        return rows.mean(0), rows.var(0) / len(rows)

    mean, variance = gradients("iwae")
    for gradient in ("dreg", "stl"):
        other, spread = gradients(gradient)
        assert ((mean - other).abs() < 4.5 * (variance + spread).sqrt()).all(), gradient


def test_sampling_after_an_inner_label_needs_iwae():
    model, guide, (weight, _, _) = late_label(again=True)
    x = data(5)[:, :2]
    estimator = ImportanceWeightedELBO(3, max_plate_nesting=1)
    assert torch.autograd.grad(estimator.differentiable_loss(model, guide, x), weight)
    with pytest.raises(NotImplementedError, match="only gradient='iwae'"):
        ImportanceWeightedELBO(3, "dreg").differentiable_loss(model, guide, x)


def test_an_inner_plate_is_summed_in_the_model_and_not_in_the_guide(float64):
    def program(x, observe):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", D, dim=-1):
            y = pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            if observe:
                pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def model(x):
        program(x, observe=True)

    def guide(x):
        program(x, observe=False)

    x = torch.randn(4, D)
    y = torch.tensor([0.0, 1.0]).reshape(2, 1, 1)
    log_p = dist.Bernoulli(0.3).log_prob(y) + dist.Normal(y, 1.0).log_prob(x)
    exact = log_p.logsumexp(0).sum(-1)
    for estimator in (ImportanceWeightedELBO(2), AnalyticKLELBO()):
        torch.testing.assert_close(estimator.per_datum(model, lambda x: None, x), exact)
        with pytest.raises(NotImplementedError, match="'y' of the guide is enumerated inside"):
            estimator.loss(model, guide, x)
    elbo = log_p - dist.Bernoulli(0.3).log_prob(y)
    elbo = (dist.Bernoulli(0.3).log_prob(y).exp() * elbo).sum()
    assert ImportanceWeightedELBO(1).loss(model, guide, x) == pytest.approx(-elbo.item())


def test_a_model_that_enumerates_all_latents_needs_none_in_the_guide():
    # A mixture of three: log p(x) exactly, whatever K.
    means = torch.randn(3, D)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample(
                "y", dist.Categorical(torch.full((3,), 1 / 3)), infer={"enumerate": "parallel"}
            )
            pyro.sample("x", dist.Normal(means[y], 1.0).to_event(1), obs=x)

    def guide(x):
        return None

    x = torch.randn(4, D)
    mixture = dist.MixtureSameFamily(
        dist.Categorical(torch.full((3,), 1 / 3)), dist.Normal(means, 1.0).to_event(1)
    )
    for k in (1, 5):
        for gradient in ("iwae", "dreg"):
            loss = ImportanceWeightedELBO(k, gradient).differentiable_loss(model, guide, x)
            torch.testing.assert_close(loss, -mixture.log_prob(x).sum())


def labelled_twice(logits):
    """Two labels: one enumerated in the guide, with q(y) = softmax(logits), one in the model."""
    means = torch.arange(6.0).double().reshape(3, 2)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=torch.zeros(3).double()))
            other = pyro.sample(
                "other", dist.Bernoulli(torch.tensor(0.3).double()), infer={"enumerate": "parallel"}
            )
            z = pyro.sample("z", dist.Normal(other.to(x), 1.0))
            loc = means[y.long()] + (z + 2 * other).unsqueeze(-1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            q_y = dist.Categorical(logits=logits)
            pyro.sample("y", q_y, infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(torch.tensor(0.5).double(), 1.0))

    def by_hand(x, k):
        torch.manual_seed(1)
        z = dist.Normal(torch.tensor(0.5).double(), 1.0).sample((k, len(x)))
        log_q = torch.log_softmax(logits, -1)
        total = torch.zeros(len(x)).double()
        for c in range(3):
            if log_q[c] == -torch.inf:
                continue
            joint = []
            for other, p in ((0.0, 0.7), (1.0, 0.3)):
                loc = means[c] + (z + 2 * other).unsqueeze(-1)
                log_p = dist.Normal(loc, 1.0).log_prob(x).sum(-1) + math.log(p / 3)
                joint.append(log_p + dist.Normal(other, 1.0).log_prob(z))
            log_w = torch.stack(joint).logsumexp(0) - dist.Normal(0.5, 1.0).log_prob(z)
            total = total + log_q[c].exp() * (log_w.exp().mean(0).log() - log_q[c])
        return total

    return model, guide, by_hand


@pytest.mark.parametrize("last", [0.7, -torch.inf], ids=["possible", "impossible"])
@pytest.mark.parametrize("gradient", ["iwae", "dreg"])
def test_labels_in_guide_and_model_and_labels_of_probability_zero(gradient, last):
    logits = torch.tensor([0.1, -0.4, last], dtype=torch.float64, requires_grad=True)
    model, guide, by_hand = labelled_twice(logits)
    x, k = data(4)[:, :2], 3
    expected = -by_hand(x, k).sum()
    torch.manual_seed(1)
    estimator = ImportanceWeightedELBO(k, gradient, max_plate_nesting=1)
    loss = estimator.differentiable_loss(model, guide, x)
    torch.testing.assert_close(loss, expected)
    got, want = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
    torch.testing.assert_close(got, want)
