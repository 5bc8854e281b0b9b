"""The contract of every prior, posterior, likelihood and network."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from pairs import LIKELIHOODS, POSTERIORS, PRIORS, D, Z, net
from torch import nn

from ppl_vae import conditional, likelihoods, nets, posteriors, priors

LEADING = [(), (1,), (7,), (3, 7), (2, 1, 7)]


def grid(half_width, points, dim):
    axis = torch.linspace(-half_width, half_width, points)
    mesh = torch.stack(torch.meshgrid(*[axis] * dim, indexing="ij"), -1)
    return mesh.reshape(-1, dim), (axis[1] - axis[0]) ** dim


@pytest.fixture(params=PRIORS)
def prior(request, float64):
    return PRIORS[request.param]()


def randomise(module):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return module


def test_prior_density_integrates_to_one(prior):
    points, volume = grid(12.0, 801, 2)
    density = randomise(prior)().log_prob(points).exp()
    assert (density.sum() * volume).item() == pytest.approx(1.0, abs=1e-9)


def test_prior_samples_match_density(prior):
    # E_p[f] by sampling and by quadrature, for a bounded f; 5 standard errors.
    points, volume = grid(12.0, 801, 2)
    p = randomise(prior)()

    def f(z):
        return torch.sin(z[..., 0] + 0.3) * torch.cos(0.7 * z[..., 1]) + torch.tanh(z[..., 1])

    exact = (f(points) * p.log_prob(points).exp()).sum() * volume
    draws = f(p.sample((100_000,)))
    assert abs(draws.mean() - exact) < 5 * draws.std() / math.sqrt(len(draws))


@pytest.mark.parametrize("leading", LEADING)
def test_prior_shapes(prior, leading):
    p = prior()
    assert (p.batch_shape, p.event_shape) == ((), (Z,))
    assert p.log_prob(torch.randn(*leading, Z)).shape == leading
    assert p.expand(leading).sample().shape == (*leading, Z)


@pytest.mark.parametrize("components", [1, 3, 500])
def test_mixture_is_a_log_mean_exp_of_component_densities(components, float64):
    prior = randomise(priors.GaussianMixture(Z, components))
    z = 3 * torch.randn(50, Z)
    scale = torch.nn.functional.softplus(prior.unconstrained_scale) + 1e-4
    by_hand = torch.zeros(50)
    for mu, sigma in zip(prior.loc, scale, strict=True):
        quadratic = (((z - mu) / sigma) ** 2).sum(-1)
        by_hand += torch.exp(-0.5 * quadratic) / (2 * math.pi * sigma.prod()) / components
    torch.testing.assert_close(prior().log_prob(z), by_hand.log(), rtol=1e-11, atol=1e-11)


def test_mixture_weights_are_used(float64):
    prior = priors.GaussianMixture(Z, 3, learn_weights=True)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, 1.0, 2.0]))
    weights = torch.softmax(torch.tensor([0.0, 1.0, 2.0]), 0)
    z = torch.randn(9, Z)
    densities = prior().component_distribution.log_prob(z.unsqueeze(-2)).exp()
    torch.testing.assert_close(prior().log_prob(z), (densities * weights).sum(-1).log())
    torch.testing.assert_close(
        prior.responsibilities(z),
        densities * weights / (densities * weights).sum(-1, keepdim=True),
    )


def test_mixture_matches_numerical_integration_in_one_dimension(float64):
    # P(z < t) by the normal cdf of each component, against the integral of the density.
    prior = randomise(priors.GaussianMixture(1, 5))
    z, step = grid(15.0, 60_001, 1)
    density = prior().log_prob(z).exp()
    p = prior().component_distribution.base_dist
    for t in (-1.0, 0.2, 1.5):
        exact = p.cdf(torch.tensor(t)).mean()
        # the grid has a point at t; the trapezoid rule halves it
        numeric = (
            density[z[:, 0] < t - 1e-9].sum() * step
            + 0.5 * step * prior().log_prob(torch.tensor([t])).exp()
        )
        assert numeric.item() == pytest.approx(exact.item(), abs=1e-6)


def test_mixture_is_safe_in_float32_with_500_components():
    prior = priors.GaussianMixture(10, components=500)
    with torch.no_grad():
        prior.loc.mul_(5)
        prior.unconstrained_scale.fill_(-3.0)  # narrow components far apart: exp() underflows
    z = torch.cat([prior.loc.detach()[:20], 100 * torch.randn(20, 10)]).requires_grad_()
    log_prob = prior().log_prob(z)
    log_prob.sum().backward()
    exact = copy.deepcopy(prior).double()().log_prob(z.double())
    assert torch.isfinite(log_prob).all()
    assert all(torch.isfinite(t.grad).all() for t in (z, prior.loc, prior.unconstrained_scale))
    torch.testing.assert_close(log_prob.double(), exact, rtol=2e-6, atol=2e-4)


@pytest.mark.parametrize("name", [*POSTERIORS, *LIKELIHOODS])
@pytest.mark.parametrize("leading", LEADING)
def test_conditional_takes_any_leading_dimensions(name, leading, float64):
    part = (POSTERIORS | LIKELIHOODS)[name]()
    width_in, event = (D, Z) if name in POSTERIORS else (Z, D)
    context = torch.randn(*leading, width_in)
    p = part(context)
    assert (p.batch_shape, p.event_shape) == (leading, (event,))
    value = p.sample()
    # one at a time gives the same density
    flat = [
        part(c).log_prob(v)
        for c, v in zip(context.reshape(-1, width_in), value.reshape(-1, event), strict=True)
    ]
    torch.testing.assert_close(p.log_prob(value).reshape(-1), torch.stack(flat))


@pytest.mark.parametrize("name", [*PRIORS, *POSTERIORS, *LIKELIHOODS])
def test_save_and_load_round_trip(name, tmp_path):
    make = (PRIORS | POSTERIORS | LIKELIHOODS)[name]
    first, second = randomise(make()), randomise(make())
    torch.save(first.state_dict(), tmp_path / "part.pt")
    second.load_state_dict(torch.load(tmp_path / "part.pt", weights_only=True))
    context = () if name in PRIORS else (torch.randn(3, D if name in POSTERIORS else Z),)
    value = first(*context).sample((2,))
    torch.testing.assert_close(first(*context).log_prob(value), second(*context).log_prob(value))


def test_normal_likelihood_is_the_squared_error(float64):
    decoder = net(Z, D)
    z, x = torch.randn(7, Z), torch.randn(7, D)
    squared_error = ((x - decoder(z)) ** 2).sum(-1)
    for scale in (1.0, 0.3, math.sqrt(0.5)):
        expected = -squared_error / (2 * scale**2) - D * math.log(scale * math.sqrt(2 * math.pi))
        log_prob = likelihoods.Normal(decoder, scale)(z).log_prob(x)
        # the fixed scale is stored in float32
        torch.testing.assert_close(log_prob, expected, rtol=1e-6, atol=1e-6)


def test_likelihoods_of_images_sum_over_the_event():
    class Decoder(nn.Module):
        def forward(self, z):
            return z.sum(-1)[..., None, None, None].expand(*z.shape[:-1], 1, 4, 4)

    p = likelihoods.Bernoulli(Decoder(), event_dim=3)(torch.randn(5, 7, Z))
    assert (p.batch_shape, p.event_shape) == ((5, 7), (1, 4, 4))


def test_diagonal_normal_is_location_then_scale(float64):
    encoder = net(D, 2 * Z)
    x = torch.randn(7, D)
    q = posteriors.DiagonalNormal(encoder)(x)
    loc, raw = encoder(x)[:, :Z], encoder(x)[:, Z:]
    expected = dist.Normal(loc, torch.log1p(raw.exp()) + 1e-4).to_event(1)
    z = torch.randn(7, Z)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))


def test_contexts_are_broadcast_and_concatenated():
    x, y = torch.randn(7, 3), torch.randn(5, 1, 2)
    joined = conditional.concatenate(x, y)
    assert joined.shape == (5, 7, 5)
    torch.testing.assert_close(joined[4, 6], torch.cat([x[6], y[4, 0]]))


def test_a_network_may_take_contexts_apart():
    class Apart(nn.Module):
        def forward(self, x, y):
            return torch.cat([x + y.sum(-1, keepdim=True), x], -1)

    x, y = torch.randn(7, Z), torch.randn(7, 3)
    q = posteriors.DiagonalNormal(Apart())(x, y)
    torch.testing.assert_close(q.mean, x + y.sum(-1, keepdim=True))


def test_mlp_is_what_it_says():
    mlp = nets.MLP(4, 3, hidden=(8, 9), activation=nn.Tanh)
    kinds = [type(layer).__name__ for layer in mlp.layers]
    assert kinds == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert [p.shape[0] for p in mlp.parameters()] == [8, 8, 9, 9, 3, 3]
    assert [type(m) for m in nets.MLP(4, 3, hidden=()).layers] == [nn.Linear]
