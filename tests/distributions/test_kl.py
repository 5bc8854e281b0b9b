"""The closed forms of KL(q || p) between normals, against torch's own for two full covariances."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

import ppl_vae  # noqa: F401  (registers the closed forms)
from ppl_vae.distributions.mixture import MixtureOfDiagonalNormals

D = 4

pytestmark = pytest.mark.usefixtures("float64")


def lower(*batch):
    """A Cholesky factor that is far from diagonal."""
    return torch.randn(*batch, D, D).tril(-1) + torch.diag_embed(torch.rand(*batch, D) + 0.3)


def diagonal(*batch):
    return dist.Normal(torch.randn(*batch, D), torch.rand(*batch, D) + 0.3).to_event(1)


def full_rank(*batch):
    return dist.MultivariateNormal(torch.randn(*batch, D), scale_tril=lower(*batch))


def low_rank(*batch):
    return dist.LowRankMultivariateNormal(
        torch.randn(*batch, D), torch.randn(*batch, D, 2), torch.rand(*batch, D) + 0.3
    )


PAIRS = {
    "diagonal, diagonal": (diagonal, diagonal),
    "full rank, diagonal": (full_rank, diagonal),
    "low rank, diagonal": (low_rank, diagonal),
    "diagonal, full rank": (diagonal, full_rank),
    "full rank, full rank": (full_rank, full_rank),
    "low rank, full rank": (low_rank, full_rank),
}
SHAPES = [((), ()), ((5,), (5,)), ((5,), ()), ((), (5,)), ((3, 5), (5,)), ((3, 1), (5,))]


def as_full(d):
    """The same normal for torch alone, with a covariance matrix."""
    covariance = getattr(d, "covariance_matrix", None)
    if covariance is None:
        covariance = torch.diag_embed(d.variance)
    return torch.distributions.MultivariateNormal(d.mean, covariance_matrix=covariance)


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("pair", PAIRS)
def test_equals_that_of_torch_for_full_covariances(pair, shapes):
    (make_q, make_p), (of_q, of_p) = PAIRS[pair], shapes
    q, p = make_q(*of_q), make_p(*of_p)
    kl = kl_divergence(q, p)
    assert kl.shape == torch.broadcast_shapes(of_q, of_p)
    expected = kl_divergence(as_full(q), as_full(p))
    close(kl, expected)
    assert (kl > 0.1).all()


@pytest.mark.parametrize("pair", PAIRS)
def test_expanded_distributions_repeat_the_value(pair):
    make_q, make_p = PAIRS[pair]
    q, p = make_q(), make_p()
    kl = kl_divergence(q, p)
    for of_q, of_p in [((3, 5), (3, 5)), ((3, 5), ()), ((3, 5), (5,)), ((5,), (3, 1))]:
        q_many = q.expand(of_q) if of_q else q
        p_many = p.expand(of_p) if of_p else p
        close(kl_divergence(q_many, p_many), kl.expand(3, 5))
    # a batch of q, expanded by particles on the left as in a Pyro program
    q = make_q(5)
    close(kl_divergence(q.expand((3, 5)), p.expand((3, 5))), kl_divergence(q, p).expand(3, 5))


def test_between_bernoullis_is_the_sum_over_both_values_and_broadcasts():
    q, p = dist.Bernoulli(torch.rand(3, 1, D)), dist.Bernoulli(torch.rand(5, D))
    terms = [q.log_prob(v).exp() * (q.log_prob(v) - p.log_prob(v)) for v in torch.eye(2)[0]]
    close(kl_divergence(q, p), sum(terms))
    close(kl_divergence(q.to_event(1), p.to_event(1)), sum(terms).sum(-1))


def test_between_bernoullis_of_probabilities_0_and_1():
    ends = torch.tensor([0.0, 0.5, 1.0])
    kl = kl_divergence(dist.Bernoulli(ends[:, None]), dist.Bernoulli(ends))
    half, inf = math.log(2), math.inf
    close(kl, torch.tensor([[0.0, half, inf], [inf, 0.0, inf], [inf, half, 0.0]]))


def test_between_nearly_certain_bernoullis_is_that_of_float64():
    for of_q, of_p in ((20.0, 1e9), (-20.0, -1e9), (20.0, -3.0), (200.0, 5.0)):
        q, p = (
            dist.Bernoulli(logits=torch.tensor([v, v], dtype=torch.float32)) for v in (of_q, of_p)
        )
        exact = kl_divergence(*(dist.Bernoulli(logits=d.logits.double()) for d in (q, p)))
        torch.testing.assert_close(kl_divergence(q, p).double(), exact, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("make", [full_rank, low_rank], ids=["full rank", "low rank"])
def test_one_shared_scale_of_the_prior_counts_for_each_dimension(make):
    q, p = make(5), dist.Normal(torch.zeros(D), 2.0).to_event(1)
    close(kl_divergence(q, p), kl_divergence(as_full(q), as_full(p)))


@pytest.mark.parametrize("d", [1, D])
def test_is_zero_at_equality_and_nowhere_else(d):
    loc, scale = torch.randn(5, d), torch.rand(5, d) + 0.3
    p = dist.Normal(loc, scale).to_event(1)
    zero = torch.zeros(5)
    for shift in (0.0, 0.1):
        full = dist.MultivariateNormal(loc + shift, scale_tril=torch.diag_embed(scale))
        factor = 0.1 * torch.ones(5, d, 1)
        low = dist.LowRankMultivariateNormal(loc + shift, 1e-9 * factor, scale**2)
        for q in (full, low):
            kl = kl_divergence(q, p)
            if shift:
                close(kl, 0.5 * (shift / scale).square().sum(-1))
            else:
                close(kl, zero)
    for q in (full_rank(), low_rank(), diagonal()):
        close(kl_divergence(q, q), torch.zeros(()))


def test_agrees_with_a_mean_over_draws():
    p, draws = diagonal(), 20_000
    for q in (full_rank(), low_rank()):
        z = q.sample((draws,))
        difference = q.log_prob(z) - p.log_prob(z)
        error = difference.std() / math.sqrt(draws)
        assert (difference.mean() - kl_divergence(q, p)).abs() < 4 * error


def test_gradients():
    p_loc, p_scale = torch.randn(D), torch.rand(D) + 0.3

    def of_full(loc, scale_tril, p_loc, p_scale):
        q = dist.MultivariateNormal(loc, scale_tril=scale_tril.tril())
        return kl_divergence(q, dist.Normal(p_loc, p_scale).to_event(1))

    def of_low(loc, factor, diag, p_loc, p_scale):
        q = dist.LowRankMultivariateNormal(loc, factor, diag)
        return kl_divergence(q, dist.Normal(p_loc, p_scale).to_event(1))

    def leaves(*tensors):
        return tuple(t.clone().requires_grad_() for t in tensors)

    full = leaves(torch.randn(2, D), lower(2), p_loc, p_scale)
    low = leaves(torch.randn(2, D), torch.randn(2, D, 2), torch.rand(2, D) + 0.3, p_loc, p_scale)
    assert torch.autograd.gradcheck(of_full, full)
    assert torch.autograd.gradcheck(of_low, low)


@pytest.mark.parametrize("make", [full_rank, low_rank], ids=["full rank", "low rank"])
def test_gradients_equal_those_of_torch_for_full_covariances(make):
    def gradients(kl_of):
        torch.manual_seed(1)
        q, p = make(5), diagonal()
        names = ("loc", "scale_tril") if make is full_rank else ("loc", "cov_factor", "cov_diag")
        leaves = [getattr(q, name).detach().clone().requires_grad_() for name in names]
        q = type(q)(**dict(zip(names, leaves, strict=True)))
        loc, scale = (t.clone().requires_grad_() for t in (p.base_dist.loc, p.base_dist.scale))
        p = dist.Normal(loc, scale).to_event(1)
        got = torch.autograd.grad(kl_of(q, p).sum(), [*leaves, loc, scale])
        return [g.tril() if g.shape == (5, D, D) else g for g in got]

    for got, expected in zip(
        gradients(kl_divergence),
        gradients(lambda q, p: kl_divergence(as_full(q), as_full(p))),
        strict=True,
    ):
        close(got, expected)


def laplace():
    return dist.Laplace(torch.zeros(D), torch.ones(D)).to_event(1)


def matrix():
    return dist.Normal(torch.zeros(D, D), 1.0).to_event(2)


def mixture(reparameterised=False):
    if reparameterised:
        return MixtureOfDiagonalNormals(torch.zeros(2), torch.randn(2, D), torch.ones(2, D))
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), diagonal(2))


@pytest.mark.parametrize("make_p", [laplace, matrix, mixture])
@pytest.mark.parametrize("make_q", [full_rank, low_rank])
def test_pairs_without_a_closed_form_still_raise(make_q, make_p):
    with pytest.raises(NotImplementedError):
        kl_divergence(make_q(), make_p())


def test_pairs_that_are_not_ours_still_raise():
    for q, p in [
        (diagonal(), low_rank()),
        (laplace(), full_rank()),
        (diagonal(), mixture()),
        (mixture(), diagonal()),
        (mixture(reparameterised=True), diagonal()),
        (full_rank(), mixture(reparameterised=True)),
    ]:
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)


def test_event_shapes_that_differ_are_refused():
    q = dist.MultivariateNormal(torch.zeros(3), torch.eye(3))
    p = dist.Normal(torch.zeros(1), 2.0).to_event(1)
    with pytest.raises(ValueError, match="different event shapes"):
        kl_divergence(q, p)


@pytest.mark.parametrize("difference", [1e-2, 1e-4, 1e-6, 0.0])
@pytest.mark.parametrize("kind", ["full rank", "low rank"])
def test_float32_near_equality(kind, difference):
    # In float64 the terms of the formula cancel less, and what it gives is right to 1e-14.
    torch.set_default_dtype(torch.float32)
    d = 50
    loc, sigma = torch.full((d,), 0.3), torch.full((d,), 1.7)
    if kind == "full rank":
        noise = torch.tril(torch.randn(d, d))
        parts = {"scale_tril": torch.diag(sigma) + difference * noise}
        family, slack = torch.distributions.MultivariateNormal, 0.0
    else:
        factor = difference * torch.randn(d, 3)
        cov = (sigma * (1 + difference * torch.randn(d))).square()
        parts = {"cov_factor": factor, "cov_diag": cov}
        family, slack = torch.distributions.LowRankMultivariateNormal, 5e-7
    moved = loc + difference * torch.randn(d)

    def kl(dtype):
        p = torch.distributions.Normal(loc.to(dtype), sigma.to(dtype))
        q = family(moved.to(dtype), **{k: v.to(dtype) for k, v in parts.items()})
        p = torch.distributions.Independent(p, 1)
        return torch.distributions.kl_divergence(q, p).double()

    single, double = kl(torch.float32), kl(torch.float64)
    # The determinant of what the factor adds is rounded as a number next to 1.
    torch.testing.assert_close(single, double, rtol=2e-3, atol=1e-12 + slack)
    assert single >= -slack
