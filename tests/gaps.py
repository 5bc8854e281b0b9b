"""Helpers of tests of missing entries: data with gaps, a loop by hand, programs of a user's own."""

import math

import pyro
import pyro.distributions as dist
import torch
from pairs import C, D, Z, net, vae
from torch import nn

from ppl_vae import ConditionalVAE, estimators, likelihoods, posteriors, priors

NAN = math.nan
SIGMA = 0.5
X8, M8, Y8 = torch.zeros(8, D), torch.ones(8, D, dtype=torch.bool), torch.arange(8) % C


def masked(count=40, seed=0, share=0.4):
    """Values of 0 and 1 with NaN in the place of some, and what is observed."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, D, generator=generator).round()
    mask = torch.rand(count, D, generator=generator) >= share
    return x.masked_fill(~mask, NAN), mask


def weights(pair):
    return {name: value.clone() for name, value in pair.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def made(build=vae, *args, **options):
    pyro.set_rng_seed(0)
    return build(*args, **options)


def by_hand(pair, batches, steps, seed):
    """Train by a loop that one writes oneself, on ``(args, mask)``."""
    optimizer = torch.optim.Adam(pair.parameters(), lr=1e-3, fused=True)
    estimator = estimators.ImportanceWeightedELBO(1)
    pyro.set_rng_seed(seed)
    for step in range(steps):
        *args, mask = batches[step % len(batches)]
        with pyro.validation_enabled(step == 0):
            loss = estimator.differentiable_loss(pair.model, pair.guide, *args, mask=mask)
        (loss * (1 / len(mask))).backward()
        optimizer.step()
        optimizer.zero_grad()


def conditional():
    return ConditionalVAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D + C, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + C, D)),
        num_classes=C,
    )


def log_px(w, b, x, mask):
    """log p(x_observed) of x ~ N(b, w wᵀ + σ²), datum by datum."""
    cov = torch.outer(w, w) + SIGMA**2 * torch.eye(len(w))
    values = torch.zeros(len(x))
    for seen in mask.unique(dim=0):  # data with the same gaps at once
        rows = (mask == seen).all(1)
        if seen.any():
            p = torch.distributions.MultivariateNormal(b[seen], cov[seen][:, seen])
            values = values.masked_scatter(rows, p.log_prob(x[rows][:, seen]))
    return values


class Programs(nn.Module):
    """Programs of a user's own that note how they are called."""

    def __init__(self, model, guide):
        super().__init__()
        self.model, self.guide = model, guide


class Takes(nn.Module):
    def __init__(self, is_model):
        super().__init__()
        self.is_model, self.loc, self.calls = is_model, nn.Parameter(torch.zeros(D)), []

    def run(self, x, mask, **further):
        self.calls.append((x, mask, further))
        with pyro.plate("data", len(x)):
            if not self.is_model:
                pyro.sample("z", dist.Normal(self.loc.mean().expand(len(x)), 1.0))
                return
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            d = dist.Normal(z.unsqueeze(-1) + self.loc, 1.0)
            pyro.sample("x", (d if mask is None else d.mask(mask)).to_event(1), obs=x)


class X(Takes):
    def forward(self, x):
        self.run(x, None)


class XMask(Takes):
    def forward(self, x, mask=None):
        self.run(x, mask)


class XMaskY(Takes):
    def forward(self, x, mask=None, y=None):
        self.run(x, mask, y=y)


class NeedsLabels(Takes):
    def forward(self, x, y, mask=None):
        self.run(x, mask, y=y)


class OnlyNames(Takes):
    def forward(self, *, x, mask=None):
        self.run(x, mask)


class Anything(Takes):
    def forward(self, *args, **kwargs):
        self.run(args[0], kwargs.get("mask"), args=args[1:])


def programs(model, guide=None):
    return Programs(model(True), (guide or model)(False))
