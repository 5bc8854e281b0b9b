"""Normal priors: against closed forms."""

import math

import pyro.distributions as dist
import pytest
import torch
from pairs import POSTERIORS, C, D, Z, binary, net
from torch import nn
from torch.distributions import kl_divergence

from ppl_vae import VAE, likelihoods, nets, priors
from ppl_vae.estimators import AnalyticKLELBO


def randomise(module, size=0.5):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


def close(got, expected, tolerance=1e-10):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("make", [priors.DiagonalNormal, priors.FullRankNormal])
@pytest.mark.parametrize("latent_dim", [1, 2, 7])
def test_learned_normals_start_at_the_standard_normal(make, latent_dim, float64):
    p, standard = make(latent_dim)(), priors.StandardNormal(latent_dim)()
    z = torch.randn(9, latent_dim)
    close(p.log_prob(z), standard.log_prob(z))


def test_full_rank_prior_is_the_normal_of_its_covariance(float64):
    prior = randomise(priors.FullRankNormal(4), 1.0)
    L, raw = torch.zeros(4, 4), prior.unconstrained_scale.detach()
    below = iter(prior.below_diagonal.detach())
    for i in range(4):
        L[i, i] = math.log1p(math.exp(raw[i])) + 1e-4
        for j in range(i):
            L[i, j] = L[i, i] * next(below) / 2  # the root of 4 dimensions
    close(prior().covariance_matrix, L @ L.T)
    z = torch.randn(9, 4)
    deviation = z - prior.loc
    quadratic = (deviation @ torch.linalg.inv(L @ L.T) * deviation).sum(-1)
    expected = -0.5 * (quadratic + torch.logdet(L @ L.T) + 4 * math.log(2 * math.pi))
    close(prior().log_prob(z), expected)


@pytest.mark.parametrize("prior", ["diagonal", "full rank"])
@pytest.mark.parametrize("posterior", ["diagonal", "full rank", "low rank"])
def test_analytic_kl_to_learned_normals(prior, posterior, float64):
    make = {"diagonal": priors.DiagonalNormal, "full rank": priors.FullRankNormal}[prior]
    q, x = randomise(POSTERIORS[posterior]()), binary()
    pair = VAE(
        prior=randomise(make(Z)),
        posterior=q,
        # The likelihood does not look at z, so that the bound has no noise.
        likelihood=likelihoods.Bernoulli(Ignores()),
    )
    expected = -kl_divergence(as_full(q(x)), as_full(pair.prior())) - D * math.log(2)
    estimator = AnalyticKLELBO()
    close(estimator.per_datum(pair.model, pair.guide, x), expected)
    estimator.loss_and_grads(pair.model, pair.guide, x)
    assert all(p.grad.abs().max() > 0 for p in pair.prior.parameters())


class Ignores(nn.Module):
    def forward(self, z):
        return z.new_zeros(*z.shape[:-1], D)


def as_full(d):
    covariance = getattr(d, "covariance_matrix", None)
    if covariance is None:
        covariance = torch.diag_embed(d.variance)
    return torch.distributions.MultivariateNormal(d.mean, covariance_matrix=covariance)


def test_conditional_normal_of_an_affine_network_is_one_normal_per_class(float64):
    prior = priors.ConditionalNormal(
        nets.MLP(C, priors.ConditionalNormal.net_features(Z), hidden=())
    )
    layer = prior.net.layers[0]
    p, z = prior(torch.eye(C)), torch.randn(9, 1, Z)
    for c in range(C):
        loc, raw = (layer.weight[:, c] + layer.bias).chunk(2)
        expected = dist.Normal(loc, raw.exp().log1p() + 1e-4).to_event(1)
        close(p.log_prob(z)[:, c], expected.log_prob(z[:, 0]))
    p.log_prob(z).sum().backward()
    assert (layer.weight.grad != 0).all()


ERRORS = {
    "no dimensions": (lambda: priors.DiagonalNormal(0), ValueError, "latent_dim must be 1 or more"),
    "half a dimension": (
        lambda: priors.FullRankNormal(0.5),
        TypeError,
        "latent_dim must be an int",
    ),
    "an odd number of features": (
        lambda: priors.ConditionalNormal(net(C, 3))(torch.eye(C)),
        ValueError,
        r"ConditionalNormal: net must return location and unconstrained scale.*\(3, 3\)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input(name, as_users_see_it):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()
