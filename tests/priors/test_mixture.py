"""The Gaussian-mixture prior: initialisation, precision, errors."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from pairs import Z
from torch import nn

from ppl_vae import priors


def close(got, expected, tolerance=1e-10):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_spread_is_that_of_the_means_at_the_start():
    torch.manual_seed(0)
    one = priors.GaussianMixture(Z, 4)
    torch.manual_seed(0)
    other = priors.GaussianMixture(Z, 4, spread=3)
    close(3 * one.loc, other.loc, 1e-6)
    assert torch.equal(one.unconstrained_scale, other.unconstrained_scale)


@pytest.mark.parametrize("learn_weights", [False, True])
def test_initialise_from_recovers_separated_clusters(learn_weights, float64):
    loc = 10.0 * torch.eye(4)[:, :3]  # four corners
    scale = torch.tensor([0.1, 0.5, 1.0, 0.7])
    n = torch.tensor([1000, 2000, 3000, 500])
    label = torch.arange(4).repeat_interleave(n)
    z = loc[label] + scale[label, None] * torch.randn(len(label), 3)
    prior = priors.GaussianMixture(3, 4, learn_weights=learn_weights)
    parameters = dict(prior.named_parameters())
    state = torch.get_rng_state()
    prior.initialise_from(z)
    assert torch.equal(state, torch.get_rng_state())
    assert all(p is parameters[name] for name, p in prior.named_parameters())
    distance = torch.cdist(loc, prior.loc.detach())
    found = distance.argmin(1)
    assert sorted(found.tolist()) == [0, 1, 2, 3]
    standard_error = scale / n.sqrt()
    assert (distance[range(4), found] < 5 * math.sqrt(3) * standard_error).all()
    got = prior().component_distribution.base_dist.scale[found]
    # The added pseudo-count of the pooled variance and a relative error of 1 / sqrt(2 n), times 5.
    pooled = (n * scale.square()).sum() / n.sum()
    expected = ((n * scale.square() + pooled) / (n + 1)).sqrt().unsqueeze(-1)
    assert ((got / expected - 1).abs() < 5 / (2 * n).sqrt().unsqueeze(-1)).all()
    weights = prior().mixture_distribution.probs[found]
    close(weights, (n + 1.0) / (n.sum() + 4) if learn_weights else torch.full((4,), 0.25))


def test_initialise_from_repeats_for_a_seed_and_depends_on_it():
    z = torch.randn(200, Z)
    prior = priors.GaussianMixture(Z, 20)
    means = []
    for seed in (0, 0, 1):
        prior.initialise_from(z, seed=seed)
        means.append(prior.loc.detach().clone())
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])


def test_initialise_from_gives_a_single_latent_a_scale():
    z = torch.randn(6, Z)
    for components in (6, 5):
        prior = priors.GaussianMixture(Z, components, learn_weights=True)
        prior.initialise_from(z)
        scale = prior().component_distribution.base_dist.scale
        assert (scale > 0.0099 * z.std(0, correction=0)).all()
        assert prior().log_prob(z).isfinite().all()
    # A latent on its own has half the variance within clusters.
    z = torch.cat([torch.randn(50, 1), torch.tensor([[20.0]])])
    prior = priors.GaussianMixture(1, 2)
    prior.initialise_from(z)
    within = (z[:50] - z[:50].mean(0)).square().sum() / 51
    scale = prior().component_distribution.base_dist.scale[prior.loc.argmax()]
    close(scale, (within / 2).sqrt().reshape(1), 1e-4)


@pytest.mark.parametrize("distance", [1.0, 100.0, 1000.0])
def test_mixture_of_normals_loses_nothing_to_cancellation(distance):
    """The matrix product in float32 data, held against the direct form in float64."""
    prior = priors.GaussianMixture(10, components=7, spread=distance)
    with torch.no_grad():
        prior.unconstrained_scale.uniform_(-3, 3)
    z = (distance * torch.randn(20, 10)).requires_grad_()
    log_prob = prior().log_prob(z)
    log_prob.sum().backward()

    exact = copy.deepcopy(prior).double()
    exact.zero_grad()
    x = z.detach().double().requires_grad_()
    scale = nn.functional.softplus(exact.unconstrained_scale) + 1e-4
    each = dist.Normal(exact.loc, scale).log_prob(x.unsqueeze(-2)).sum(-1)
    expected = each.logsumexp(-1) - math.log(7)
    expected.sum().backward()
    # Of float32 remain the rounding of the result, and that of σ: once in a step of z.
    assert torch.allclose(log_prob.double(), expected, rtol=1e-5)
    for ours, theirs in (
        (z.grad, x.grad),
        (prior.loc.grad, exact.loc.grad),
        (prior.unconstrained_scale.grad, exact.unconstrained_scale.grad),
    ):
        assert torch.allclose(ours.double(), theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max())


def test_mixture_of_normals_looks_at_its_values():
    with pytest.raises(ValueError, match="support"):
        priors.GaussianMixture(2, components=3)().log_prob(torch.tensor([0.0, torch.nan]))


def initialise(z, components=3):
    return lambda: priors.GaussianMixture(Z, components).initialise_from(z)


ERRORS = {
    "a spread of zero": (
        lambda: priors.GaussianMixture(Z, 3, spread=0.0),
        ValueError,
        r"spread must be finite and above 0, got 0\.0.*components with equal means",
    ),
    "a spread that is no number": (
        lambda: priors.GaussianMixture(Z, 3, spread="1"),
        TypeError,
        "spread must be a number, got '1'",
    ),
    "too few latents": (
        initialise(torch.randn(2, Z)),
        ValueError,
        r"z must have shape \(N, 2\) with N at least 3.*got a tensor of shape \(2, 2\)",
    ),
    "latents of another width": (
        initialise(torch.randn(9, Z + 1)),
        ValueError,
        r"z must have shape \(N, 2\)",
    ),
    "latents that repeat": (
        initialise(torch.randn(2, Z).repeat(5, 1)),
        ValueError,
        "at least 3 distinct rows, one per component, got 2; give more",
    ),
    "latents that are not finite": (
        initialise(torch.full((9, Z), math.inf)),
        ValueError,
        "z must be finite",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input(name, as_users_see_it):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()


def test_the_density_has_the_wider_of_the_two_dtypes():
    prior, z = priors.GaussianMixture(Z, 4), torch.randn(3, Z)
    assert prior().log_prob(z).dtype == torch.float32
    assert prior.double()().log_prob(z).dtype == torch.float64
