"""What the tests of evaluation evaluate: closed forms, plain programs, pairs of several kinds."""

import math

import pyro
import pytest
import torch
from pairs import CONDITIONAL_PRIORS, LIKELIHOODS, POSTERIORS, PRIORS, C, D, net
from pyro import distributions as dist
from torch import nn

from ppl_vae import VAE, ConditionalVAE, HierarchicalVAE, likelihoods, posteriors, priors
from ppl_vae.distributions.normal import unconstrained
from ppl_vae.testing import (
    DiscreteLinearGaussian,
    LinearGaussian,
    MixturePriorLinearGaussian,
    TwoLayerLinearGaussian,
)

# Checks of types and shapes at every inner call cost as much as what is computed: tests that take
# many small steps do without, and the same functions are checked in the others.
unchecked = pytest.mark.usefixtures("as_users_see_it")
# Of three data dimensions.
ORACLES = {
    "linear": lambda: LinearGaussian(3, 2),
    "subsampled": lambda: LinearGaussian(3, 2, size=10_000),
    "mixture prior": lambda: MixturePriorLinearGaussian(3, 2),
    "y in the guide": lambda: DiscreteLinearGaussian(3, 2, enumerate="guide"),
    "y in the model": lambda: DiscreteLinearGaussian(3, 2, enumerate="model"),
    "two layers": lambda: TwoLayerLinearGaussian(3, 2, 2),
}


class Module(nn.Module):
    """A function as a module."""

    def __init__(self, program):
        super().__init__()
        self.program = program

    def forward(self, *args, **kwargs):
        return self.program(*args, **kwargs)


class Programs:
    """A pair of plain Pyro programs."""

    def __init__(self, model, guide):
        self.model = Module(model)
        self.guide = Module(guide)


def linear_vae(data_dim, scale):
    """Return a VAE of two latents whose p(x) is normal, see ``normal_of``."""
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nn.Linear(data_dim, 4)),
        likelihood=likelihoods.Normal(nn.Linear(2, data_dim), scale=scale),
    )


def normal_of(pair, entries=slice(None)):
    """Return p(x) of a ``linear_vae``, or of some entries of x."""
    decoder = pair.likelihood.net
    noise = pair.likelihood.scale**2 * torch.eye(len(decoder.bias))
    covariance = decoder.weight @ decoder.weight.T + noise
    return dist.MultivariateNormal(
        decoder.bias[entries].detach(), covariance[entries][:, entries].detach()
    )


def linear(weight, bias):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def as_vae(oracle, posterior):
    """Return a VAE with the oracle's model."""
    model = oracle.model
    prior = priors.DiagonalNormal(len(model.prior.loc))
    with torch.no_grad():
        prior.loc.copy_(model.prior.loc)
        prior.unconstrained_scale.copy_(unconstrained(model.prior.log_scale.exp()))
    likelihood = likelihoods.Normal(
        linear(model.likelihood.weight, model.likelihood.bias),
        scale=model.likelihood.log_scale.exp().item(),
    )
    return VAE(prior=prior, posterior=posterior, likelihood=likelihood)


def diagonal(weight, bias, scale):
    """Return q(z|x) = N(A x + c, diag scale²)."""
    return posteriors.DiagonalNormal(
        linear(
            torch.cat([weight, torch.zeros_like(weight)]), torch.cat([bias, unconstrained(scale)])
        )
    )


def full_rank(exact):
    """Return the exact posterior as a posterior of full rank."""
    factor = torch.linalg.cholesky(exact.covariance)
    d = len(factor)
    row, column = torch.tril_indices(d, d, -1)
    below = factor[row, column] / factor.diagonal()[row] * math.sqrt(d)
    constant = torch.cat([unconstrained(factor.diagonal()), below])
    weight = torch.cat([exact.weight, torch.zeros(len(constant), exact.weight.shape[1])])
    return posteriors.FullRankNormal(linear(weight, torch.cat([exact.bias, constant])))


def conditional(prior="normal given y"):
    q = POSTERIORS["diagonal"](C)
    return ConditionalVAE(
        prior=(PRIORS | CONDITIONAL_PRIORS)[prior](q),
        posterior=q,
        likelihood=LIKELIHOODS["bernoulli"](C),
        num_classes=C,
    )


def hierarchical(inference="bottom-up"):
    """Return a pair of two layers, z1 of three dimensions and z2 of two."""
    top_down = inference == "top-down"
    return HierarchicalVAE(
        prior=priors.StandardNormal(2),
        conditionals=[priors.ConditionalNormal(net(2, 2 * 3))],
        posteriors=[
            posteriors.DiagonalNormal(net(D + 2 if top_down else D, 2 * 3)),
            posteriors.DiagonalNormal(net(D if top_down else 3, 2 * 2)),
        ],
        likelihood=likelihoods.Bernoulli(net(3, D)),
        inference=inference,
    )


def within(values, exact, k=4.0):
    """Whether the mean over the last dimension is exact to k standard errors."""
    error = values.std(-1) / math.sqrt(values.shape[-1])
    return bool(((values.mean(-1) - exact).abs() < k * error).all())


def falls(before, after, k=4.0):
    """Whether values of the same data fall on average, by k standard errors of the difference."""
    difference = before - after
    return bool(difference.mean() > k * difference.std() / math.sqrt(len(difference)))


def with_factor(term):
    """A pair whose weights are ``term(x, z)``, in logarithms."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("x", term(x, z))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    return Programs(model, guide)
