"""Likelihoods of counts, against formulas by hand."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from likelihood_cases import CASES, width_options
from torch import nn

from ppl_vae import likelihoods
from ppl_vae.distributions.counts import NegativeBinomial


def given(cls, outputs, event_dim=1, **options):
    """Return the likelihood whose network's output is ``outputs``."""
    return cls(nn.Identity(), event_dim=event_dim, **options).to(outputs.dtype)(outputs)


def outputs_for(name, event_shape, leading=(2,), scale=2.0, dtype=None):
    cls, options, _ = CASES[name]
    shape = cls.net_shape(event_shape, **width_options(cls, options))
    return scale * torch.randn(*leading, *shape, dtype=dtype)


def softplus(a):
    return np.logaddexp(0, a) + 1e-4


def test_poisson(float64):
    outputs, x = 3 * torch.randn(50), torch.randint(20, (50,)).double()
    p = given(likelihoods.Poisson, outputs)
    mean = softplus(outputs.numpy())
    torch.testing.assert_close(
        p.log_prob(x), torch.tensor(scipy.stats.poisson.logpmf(x.numpy(), mean).sum())
    )
    torch.testing.assert_close(p.mean, torch.tensor(mean))


@pytest.mark.parametrize("dispersion", [0.5, 19, 21, 500, "learned", "per-pixel"])
def test_negative_binomial_has_variance_mean_plus_square_over_dispersion(dispersion, float64):
    mean_outputs, x = 3 * torch.randn(4, 6), torch.randint(60, (4, 6)).double()
    outputs, r = mean_outputs, dispersion
    part = likelihoods.NegativeBinomial(nn.Identity(), dispersion)
    if dispersion == "learned":
        nn.init.constant_(part.unconstrained_dispersion, 2.0)
        r = softplus(2.0)
    if dispersion == "per-pixel":
        outputs = torch.cat([mean_outputs, 30 * torch.rand(4, 6)], -1)
        r = softplus(outputs[:, 6:].numpy())
    p, mean = part(outputs), softplus(mean_outputs.numpy())
    expected = scipy.stats.nbinom.logpmf(x.numpy(), r, r / (r + mean)).sum(-1)
    close = {"rtol": 1e-10, "atol": 1e-9}
    torch.testing.assert_close(p.log_prob(x).detach(), torch.tensor(expected), **close)
    torch.testing.assert_close(p.mean.detach(), torch.tensor(mean), **close)
    torch.testing.assert_close(p.variance.detach(), torch.tensor(mean + mean**2 / r), **close)


def test_masses_of_counts_sum_to_one(float64):
    x = torch.arange(4000.0)[:, None]
    for name in CASES:
        cls, options, _ = CASES[name]
        if cls in (likelihoods.Poisson, likelihoods.NegativeBinomial):
            outputs = outputs_for(name, (5,), leading=())
            p = given(cls, outputs + 2 * (dispersed := name.endswith("pixel")), **options).base_dist
            tail = 1e-6 if dispersed else 1e-9
            total = p.log_prob(x).exp().sum(0).detach()
            torch.testing.assert_close(total, torch.ones(5), rtol=0, atol=tail)


@pytest.mark.parametrize("r", [1e2, 1e4, 1e6, 1e8])
def test_negative_binomial_with_large_dispersion_keeps_its_precision(r):
    x, mean = torch.tensor([0.0, 1.0, 7.0, 30.0, 90.0]), torch.tensor([[1e-3], [1.0], [40.0], [90]])
    p = NegativeBinomial(torch.tensor(r), logits=mean.log() - math.log(r))
    mean = torch.tensor(r).double() * (p.logits.double()).exp()
    expected = torch.tensor(scipy.stats.poisson.logpmf(x.double().numpy(), mean.numpy()))
    if r < 1e7:  # beyond, scipy's own is no better
        expected = torch.tensor(
            scipy.stats.nbinom.logpmf(x.double().numpy(), r, (r / (r + mean)).numpy())
        )
    torch.testing.assert_close(p.log_prob(x).double(), expected, rtol=3e-6, atol=3e-5)


def test_negative_binomial_with_a_mean_far_above_dispersion_keeps_its_precision():
    x, r = torch.tensor([0.0, 1.0, 90.0]), torch.tensor([[30.0], [300.0]])
    mean = torch.tensor([[[1e4]], [[1e8]]])
    p = NegativeBinomial(r, logits=(mean / r).log())
    mean = r.double() * p.logits.double().exp()
    expected = scipy.stats.nbinom.logpmf(x.numpy(), r.numpy(), (r / (r + mean)).numpy())
    torch.testing.assert_close(p.log_prob(x).double(), torch.tensor(expected), rtol=2e-6, atol=0)
