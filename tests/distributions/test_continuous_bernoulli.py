"""The continuous Bernoulli distribution: integral, moments, samples and precision."""

import numpy as np
import pyro
import torch
from torch import nn

from ppl_vae.distributions.continuous_bernoulli import ContinuousBernoulli

LOGITS = [0.0, 1e-6, 1e-3, 0.02, 0.499, 0.501, 1.0, 5.0, 20.0, 50.0, 300.0]


def test_continuous_bernoulli_integrates_to_one_with_its_moments(float64):
    logits = torch.tensor([sign * v for v in LOGITS for sign in (1, -1)])
    nodes, weights = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(400))
    x, weights = ((nodes + 1) / 2)[:, None], weights[:, None] / 2
    p = ContinuousBernoulli(logits)
    density = p.log_prob(x).exp()
    close = {"rtol": 1e-11, "atol": 0}
    torch.testing.assert_close((weights * density).sum(0), torch.ones(len(logits)), **close)
    torch.testing.assert_close((weights * x * density).sum(0), p.mean, **close)
    torch.testing.assert_close((weights * (x - p.mean) ** 2 * density).sum(0), p.variance, **close)


def test_continuous_bernoulli_samples_invert_the_distribution_function(float64):
    # F(x) = (e^(λx) - 1) / (e^λ - 1) of a draw from the uniform u is u, or 1 - u.
    logits = torch.tensor([sign * v for v in LOGITS[1:] for sign in (1, -1)])
    pyro.set_rng_seed(0)
    x = ContinuousBernoulli(logits).sample((1000,))
    pyro.set_rng_seed(0)
    u = torch.rand(1000, len(logits))
    small, size = torch.where(logits > 0, 1 - x, x), -logits.abs()
    torch.testing.assert_close(torch.expm1(size * small) / torch.expm1(size), u)
    pyro.set_rng_seed(0)
    x = ContinuousBernoulli(torch.zeros(1000)).sample()
    pyro.set_rng_seed(0)
    torch.testing.assert_close(x, torch.rand(1000))


def test_continuous_bernoulli_gradient_and_moments_keep_their_precision(float64):
    # The score is x - E[x]; near 0 and at large logits forms that are right in value lose it.
    # From 40 on, E[x] = 1 - 1 / logit and Var[x] = 1 / logit² to the rounding of float64.
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-14)):
        values = [sign * v for v in [*LOGITS, 1e4] for sign in (1, -1)]
        logits = torch.tensor(values, dtype=dtype, requires_grad=True)
        p, exact = ContinuousBernoulli(logits), ContinuousBernoulli(logits.detach().double())
        for x in (0.0, 0.3, 1.0):
            (score,) = torch.autograd.grad(p.log_prob(torch.tensor(x, dtype=dtype)).sum(), logits)
            expected = torch.tensor(x, dtype=dtype).double() - exact.mean
            torch.testing.assert_close(score.double(), expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(p.mean.double(), exact.mean, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(
            p.variance.double(), exact.variance, rtol=10 * tolerance, atol=1e-15
        )
        (slope,) = torch.autograd.grad(p.mean.sum(), logits)
        torch.testing.assert_close(slope, p.variance.detach(), rtol=1e-3, atol=1e-15)
    large = torch.tensor([40.0, 1e4])
    torch.testing.assert_close(ContinuousBernoulli(large).mean, 1 - 1 / large)
    torch.testing.assert_close(ContinuousBernoulli(-large).variance, large**-2)


def test_continuous_bernoulli_is_the_cross_entropy_plus_the_constant(float64):
    logits, x = 3 * torch.randn(100), torch.rand(100)
    constant = (logits / (logits / 2).tanh()).log()
    expected = constant - nn.functional.binary_cross_entropy_with_logits(
        logits, x, reduction="none"
    )
    torch.testing.assert_close(ContinuousBernoulli(logits).log_prob(x), expected)
