"""TotalCorrelationELBO against its objective written by hand, and the ELBO, in float64."""

import math
from itertools import combinations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import binary, vae
from pyro import poutine
from pyro.infer import Trace_ELBO

from ppl_vae.estimators import ImportanceWeightedELBO, KLWeighted, TotalCorrelationELBO
from ppl_vae.testing import LinearGaussian

D, Z, B, N = 3, 2, 5, 40
SAMPLINGS = ("stratified", "weighted")


def data(batch=B):
    return torch.randn(batch, D, dtype=torch.float64)


def seeded(fn, *args, seed=1):
    torch.manual_seed(seed)
    return fn(*args)


def gradients(estimator, program, x):
    loss = seeded(estimator.differentiable_loss, program.model, program.guide, x)
    return torch.autograd.grad(loss, list(program.parameters()), materialize_grads=True)


def assert_same(found, expected):
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def draws(guide, x, k, seed=1):
    """The latents that an estimator of k particles draws at this seed, gradients included."""
    guide = pyro.plate("num_particles_vectorized", k, dim=-2)(guide)
    torch.manual_seed(seed)
    return poutine.trace(guide).get_trace(x).nodes["z"]["value"]


def log_normal(z, normal):
    loc, scale = normal.base_dist.loc, normal.base_dist.scale
    return -0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("size", [None, N])
@pytest.mark.parametrize("weights", [(1, 1, 1), (0.2, 7, 3)])
def test_the_value_is_the_elbo_whatever_the_weights(weights, size, sampling):
    alpha, beta, gamma = weights
    oracle, x = LinearGaussian(D, Z, size=size), data()
    estimator = TotalCorrelationELBO(
        N, alpha=alpha, beta=beta, gamma=gamma, sampling=sampling, num_particles=3
    )
    plain = ImportanceWeightedELBO(1, num_groups=3)
    expected = seeded(plain.loss, oracle.model, oracle.guide, x)
    for value in (estimator.loss, estimator.differentiable_loss, estimator.loss_and_grads):
        found = seeded(value, oracle.model, oracle.guide, x)
        found = found.item() if isinstance(found, torch.Tensor) else found
        assert found == pytest.approx(expected, rel=1e-12)
    got = seeded(estimator.per_datum, oracle.model, oracle.guide, x)
    want = seeded(plain.per_datum, oracle.model, oracle.guide, x)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("size", [None, N])
@pytest.mark.parametrize("weight", [1.0, 0.3, 4.0])
def test_equal_weights_are_one_weight_on_the_kl(weight, size, sampling):
    oracle, x = LinearGaussian(D, Z, size=size), data()
    estimator = TotalCorrelationELBO(
        N, alpha=weight, beta=weight, gamma=weight, sampling=sampling, num_particles=2
    )
    plain = KLWeighted(ImportanceWeightedELBO(1, num_groups=2), weight)
    assert_same(gradients(estimator, oracle, x), gradients(plain, oracle, x))


def test_the_elbo_of_pyro_has_the_gradient_of_weights_of_1(float64):
    pair, x = vae(), binary()
    ours = TotalCorrelationELBO(N, beta=1)
    assert_same(gradients(ours, pair, x), gradients(Trace_ELBO(), pair, x))


@pytest.mark.parametrize("outer_weight", [None, 0.5])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("weights", [(1, 6, 1), (0, 1, 1), (1, 1, 2.5), (0.5, 3, 0.2)])
def test_with_all_data_the_gradient_is_that_of_the_objective(weights, k, sampling, outer_weight):
    alpha, beta, gamma = weights
    oracle, x = LinearGaussian(D, Z), data()
    z = draws(oracle.guide, x, k)
    q, p = oracle.guide.posterior(x), oracle.model.prior()
    of_each = log_normal(z.unsqueeze(2), q)  # (particles, data of z, data of q, dims)
    aggregate = of_each.sum(-1).logsumexp(2) - math.log(B)
    product = (of_each.logsumexp(2) - math.log(B)).sum(-1)
    information = log_normal(z, q).sum(-1) - aggregate
    by_dimension = product - log_normal(z, p).sum(-1)
    kl = alpha * information + beta * (aggregate - product) + gamma * by_dimension
    likelihood = oracle.model.likelihood.log_density(x, z)
    objective = likelihood - (1 if outer_weight is None else outer_weight) * kl
    expected = torch.autograd.grad(-objective.mean(0).sum(), list(oracle.parameters()))
    estimator = TotalCorrelationELBO(
        B, alpha=alpha, beta=beta, gamma=gamma, sampling=sampling, num_particles=k
    )
    if outer_weight is not None:
        estimator = KLWeighted(estimator, outer_weight)
    assert_same(gradients(estimator, oracle, x), expected)


def test_stratified_weights_estimate_the_aggregate_posterior_without_bias():
    """The mean over all batches that hold a datum is q(z), at every z."""
    total, batch = 6, 3
    density = torch.rand(total, dtype=torch.float64)  # of each posterior at some z
    estimator = TotalCorrelationELBO(total)
    log_w = estimator._log_weights(batch, density)
    means = []
    for own in range(total):
        others = [n for n in range(total) if n != own]
        batches = [[own, *rest] for rest in combinations(others, batch - 1)]
        means.append(torch.stack([(log_w[0].exp() * density[b]).sum() for b in batches]).mean())
    torch.testing.assert_close(torch.stack(means), density.mean().expand(total))


@pytest.mark.parametrize(("total", "batch"), [(10, 4), (7, 7), (1000, 64)])
def test_stratified_weights_are_the_papers_on_average(total, batch):
    # Appendix C.2, M = batch - 1: one of the M others has a weight of its own.
    m = batch - 1
    papers = ((m - 1) / m + (total - m) / (total * m)) / m
    log_w = TotalCorrelationELBO(total)._log_weights(batch, torch.ones((), dtype=torch.float64))
    own = torch.eye(batch, dtype=torch.bool)
    assert log_w[~own].exp().allclose(torch.tensor(papers, dtype=torch.float64))
    assert log_w[own].exp().allclose(torch.tensor(1 / total, dtype=torch.float64))
    assert log_w.exp().sum(1).allclose(torch.ones(batch, dtype=torch.float64))


def test_an_inner_plate_of_observations_does_not_matter(float64):
    """The batch in dimension -2, pixels in -1, against pixels as an event."""
    x, weight = torch.randn(B, D), torch.randn(Z, D)
    loc, log_scale = torch.randn(D, Z).requires_grad_(), torch.randn(Z).requires_grad_()

    def programs(inner):
        def expand(t):
            return t.unsqueeze(-2) if inner else t

        def model(x):
            with pyro.plate("data", len(x), dim=-2 if inner else -1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
                mean = z @ weight
                if inner:
                    with pyro.plate("pixels", D, dim=-1):
                        pyro.sample("x", dist.Normal(mean.squeeze(-2), 1.0), obs=x)
                else:
                    pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-2 if inner else -1):
                q = dist.Normal(expand(x @ loc), log_scale.exp()).to_event(1)
                pyro.sample("z", q)

        return model, guide

    found = []
    for inner in (False, True):
        elbo = TotalCorrelationELBO(N, num_particles=3)
        loss = seeded(elbo.differentiable_loss, *programs(inner), x)
        found.append([loss, *torch.autograd.grad(loss, [loc, log_scale])])
    assert_same(*found)


def given(q, p):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", p(x))
            pyro.sample("x", dist.Normal(z[..., :1], 1.0).to_event(1), obs=x[:, :1])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", q(x))

    return model, guide


def standard(x):
    return dist.Normal(torch.zeros(D), torch.ones(D)).to_event(1)


LOC = torch.zeros(D, requires_grad=True)
REFUSED = {
    "flow": (lambda x: dist.TransformedDistribution(standard(x), []), standard, "no product"),
    "point mass": (lambda x: dist.Delta(x + LOC).to_event(1), standard, "Delta in the guide"),
    "mask": (lambda x: dist.Normal(x + LOC, 1.0).mask(x > 0).to_event(1), standard, "masked"),
    "not reparameterised": (
        lambda x: dist.VonMises(x + LOC, 1.0).to_event(1),
        lambda x: dist.VonMises(torch.zeros(D), 1.0).to_event(1),
        "not reparameterised",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_total_correlation_is_refused(name):
    q, p, words = REFUSED[name]
    with pytest.raises(NotImplementedError, match=rf"site 'z'.*{words}"):
        TotalCorrelationELBO(N).differentiable_loss(*given(q, p), torch.randn(B, D))


def test_a_prior_that_differs_between_data_is_refused():
    programs = given(
        lambda x: dist.Normal(x + LOC, 1.0).to_event(1), lambda x: dist.Normal(x, 1.0).to_event(1)
    )
    with pytest.raises(ValueError, match="prior of 'z' must be the same"):
        TotalCorrelationELBO(N).differentiable_loss(*programs, torch.randn(B, D))


def test_more_data_in_a_batch_than_there_are_is_an_error():
    oracle, x = LinearGaussian(D, Z), data()
    elbo = TotalCorrelationELBO(B - 1)
    assert math.isfinite(elbo.loss(oracle.model, oracle.guide, x))  # has no gradient
    with pytest.raises(ValueError, match=r"num_data .* at least the 5 of a batch, got 4"):
        elbo.differentiable_loss(oracle.model, oracle.guide, x)


def test_one_datum_says_nothing_about_the_others():
    oracle, x = LinearGaussian(D, Z), data(1)
    with pytest.raises(ValueError, match=r"at least 2 of the 40 data, got 1.*drop_last"):
        TotalCorrelationELBO(N).differentiable_loss(oracle.model, oracle.guide, x)
    alone = TotalCorrelationELBO(1, beta=5.0)  # q(z) is its posterior, a product
    plain = KLWeighted(ImportanceWeightedELBO(1), 1.0)
    found = gradients(TotalCorrelationELBO(1, alpha=9.0, beta=5.0), oracle, x)
    assert_same(found, gradients(alone, oracle, x))
    assert_same(found, gradients(plain, oracle, x))
