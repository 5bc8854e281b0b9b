"""Masses of counts of any size, against sums of logarithms in 60 decimal digits."""

import functools
from decimal import Context, Decimal, localcontext
from fractions import Fraction

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae import likelihoods
from ppl_vae.distributions.counts import NegativeBinomial, Poisson

COUNTS = [0, 1, 2, 5, 7, 8, 15, 16, 17, 100, 12345, 10**6, 10**7, 2**24, 10**9]
# The mean as a multiple of the count (of 1 at 0), on both sides of every switch of series.
RATIOS = [1e-20, 1e-4, 0.5, 0.59, 0.61, 0.999, 1.0, 1 + 3e-7, 1.01, 1.65, 1.68, 50, 1e5]
SHAPES = [1e-30, 1e-4, 0.5, 3.7, 7.9, 8.1, 15.9, 16.1, 1e4, 1e8, 1e20]  # r of a negative binomial
DTYPES = {"float32": (torch.float32, 3e-6), "float64": (torch.float64, 1e-13)}
BERNOULLI = ["1/6", "-1/30", "1/42", "-1/30", "5/66", "-691/2730", "7/6", "-3617/510", "43867/798"]
TWO_PI = Decimal("6.28318530717958647692528676655900576839433879875021")


@functools.cache  # in 60 digits, of few numbers
def log_gamma(t):
    """Stirling's series from t + n on, and the recurrence log Γ(t + 1) = log Γ(t) + log t."""
    product = Decimal(1)
    while t < 200:
        product *= t
        t += 1
    total = (t - Decimal("0.5")) * t.ln() - t + TWO_PI.ln() / 2
    for n, number in enumerate(map(Fraction, BERNOULLI), 1):
        of_n = Decimal(number.numerator) / number.denominator / (2 * n * (2 * n - 1))
        total += of_n / t ** (2 * n - 1)
    return total - product.ln()


def poisson(x, mean):
    x, mean = Decimal(x), Decimal(mean)
    return x * mean.ln() - mean - log_gamma(x + 1) if x else -mean


def negative_binomial(x, mean, r):
    x, mean, r = Decimal(x), Decimal(mean), Decimal(r)
    if not x:
        return -r * (1 + mean / r).ln()
    coefficient = log_gamma(r + x) - log_gamma(r) - log_gamma(x + 1)
    return coefficient + r * (r / (r + mean)).ln() + x * (mean / (r + mean)).ln()


def grid(dtype):
    x = torch.tensor(COUNTS, dtype=dtype)[:, None]
    return x, x.clamp(min=1) * torch.tensor(RATIOS, dtype=dtype)


def assert_near(result, oracle, relative, *arguments):
    """Compare element by element; the oracle sees the very numbers that the mass was given."""
    arguments = torch.broadcast_tensors(*arguments)
    with localcontext(Context(prec=60)):
        for got, *given in zip(*(t.flatten().tolist() for t in (result, *arguments)), strict=True):
            right = oracle(*given)
            assert abs(Decimal(got) - right) <= Decimal(relative) * abs(right), (given, got, right)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masses_of_poisson_counts(dtype):
    dtype, relative = DTYPES[dtype]
    x, mean = grid(dtype)
    assert_near(Poisson(mean).log_prob(x), poisson, relative, x, mean)


def test_torch_s_masses_of_large_counts_are_off_by_nats():  # as docs/likelihoods.md says
    x = torch.tensor([1e8, 1e9])
    right = Poisson(x).log_prob(x)
    assert ((dist.Poisson(x).log_prob(x) - right).abs() > 1).any()
    logits = (x / 3.7).log()
    theirs = torch.distributions.NegativeBinomial(torch.tensor(3.7), logits=logits).log_prob(x)
    ours = NegativeBinomial(torch.tensor(3.7), mean=x).log_prob(x)
    assert ((theirs - ours).abs() > 1).any()


@pytest.mark.parametrize("r", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_masses_of_negative_binomial_counts(dtype, r):
    dtype, relative = DTYPES[dtype]
    (x, mean), r = grid(dtype), torch.tensor(r, dtype=dtype)
    p = NegativeBinomial(r, mean=mean)
    torch.testing.assert_close(p.mean, mean)
    assert_near(p.log_prob(x), negative_binomial, relative, x, mean, r)


def test_a_negative_binomial_of_logits_is_torchs():
    r, logits, x = torch.tensor([0.5, 3.0, 30.0]), torch.randn(3), torch.tensor([0.0, 3.0, 40.0])
    for given in ({"logits": logits}, {"probs": logits.sigmoid()}):
        torch.testing.assert_close(
            NegativeBinomial(r, **given).log_prob(x), dist.NegativeBinomial(r, **given).log_prob(x)
        )
    expanded = NegativeBinomial(r, mean=r * logits.exp()).expand((2, 3))
    assert expanded.mean.shape == expanded.sample().shape == (2, 3)
    torch.testing.assert_close(
        expanded.log_prob(x)[1], dist.NegativeBinomial(r, logits=logits).log_prob(x)
    )
    with pytest.raises(ValueError, match="one of probs, logits and mean"):
        NegativeBinomial(r, logits=logits, mean=r)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_in_the_mean(dtype):
    # d log P / dμ = (x - μ) / μ, for a negative binomial times r / (r + μ).
    dtype, relative = DTYPES[dtype]
    x, mean = grid(dtype)
    for r in (None, *SHAPES):
        m = mean.clone().requires_grad_()
        r = None if r is None else torch.tensor(r, dtype=dtype)
        p = Poisson(m) if r is None else NegativeBinomial(r, mean=m)
        p.log_prob(x).sum().backward()
        exact = (x.double() - mean.double()) / mean.double()
        if r is not None:
            exact = exact * (r.double() / (r.double() + mean.double()))
        torch.testing.assert_close(m.grad.double(), exact, rtol=relative, atol=1e-37)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_in_the_dispersion(dtype):
    # ψ(r + x) - ψ(r) + log[r / (r + μ)] - (x - μ) / (r + μ), by central differences in 60 digits.
    dtype, _ = DTYPES[dtype]
    x = torch.tensor([0.0, 1.0, 40.0, 1e6], dtype=dtype)
    mean = torch.tensor([2.0, 0.5, 55.0, 1.1e6], dtype=dtype)
    for value in (1e-3, 0.5, 7.9, 8.1, 16.1, 1e3, 1e6):
        r = torch.full_like(x, value).requires_grad_()
        NegativeBinomial(r, mean=mean).log_prob(x).sum().backward()
        with localcontext(Context(prec=60)):
            h = Decimal(r[0].item()) * Decimal("1e-10")
            for got, *given in zip(r.grad, x, mean, r, strict=True):
                k, m, at = (Decimal(t.item()) for t in given)
                right = negative_binomial(k, m, at + h) - negative_binomial(k, m, at - h)
                # What is added is of the size of 1 / r, or of x / r in the Poisson limit.
                size = min(1 / at, k / at**2 + m / at**2) + abs(right / (2 * h))
                error = abs(Decimal(got.item()) - right / (2 * h))
                assert error <= size * Decimal(4e-6 if dtype == torch.float32 else 1e-11)


def test_second_derivatives(float64):
    x = torch.tensor([0.0, 1.0, 5.0, 17.0, 30.0])
    mean, r = (30 * torch.rand(5) + 0.1).requires_grad_(), (20 * torch.rand(5)).requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda m, r: NegativeBinomial(r, mean=m).log_prob(x), (mean, r)
    )
    assert torch.autograd.gradgradcheck(lambda m: Poisson(m).log_prob(x), (mean,))


def test_edges():
    zero = torch.zeros(())
    assert Poisson(zero).log_prob(zero) == 0
    assert Poisson(zero).log_prob(torch.ones(())) == -torch.inf
    mean = torch.tensor(1e-38).requires_grad_()
    Poisson(mean).log_prob(zero).backward()
    assert mean.grad == -1
    # A rate of another dtype than the counts, and counts beyond the integers of bfloat16.
    rate = torch.tensor(1000.0, dtype=torch.bfloat16)
    x = torch.tensor(1003.0)
    torch.testing.assert_close(Poisson(rate).log_prob(x), Poisson(rate.float()).log_prob(x))
    x64 = x.double()
    assert Poisson(rate.float()).log_prob(x64).dtype == torch.float64


@pytest.mark.parametrize("dispersion", [0.5, 1e8, "per-pixel"])
def test_rows_of_many_large_counts(dispersion):
    # In float64 the same masses are right to 1e-13, as above.
    x = (2e5 * torch.rand(3, 2000)).round()
    outputs = x * torch.empty(3, 2000).uniform_(0.98, 1.02)
    wide = torch.cat([outputs, 5 + torch.rand(3, 2000)], -1)
    for p, given in (
        (likelihoods.Poisson(nn.Identity()), outputs),
        (
            likelihoods.NegativeBinomial(nn.Identity(), dispersion),
            wide if dispersion == "per-pixel" else outputs,
        ),
    ):
        single = p(given).log_prob(x)
        double = p.double()(given.double()).log_prob(x.double())
        torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=0)


def test_the_masses_are_traced_without_looking_at_values():
    x = torch.tensor([0.0, 3.0, 1e6])

    def step(mean, r):
        p = NegativeBinomial(r, mean=mean, validate_args=False)
        q = Poisson(mean, validate_args=False)
        return torch.autograd.grad((p.log_prob(x) + q.log_prob(x)).sum(), (mean, r))

    here = [torch.tensor([1.0, 2.0, 1e6], requires_grad=True), torch.ones(3, requires_grad=True)]
    there = [torch.tensor([9.0, 900.0, 1.0], requires_grad=True), torch.full((3,), 1e3)]
    there[1].requires_grad_()
    for got, right in zip(make_fx(step)(*here)(*there), step(*there), strict=True):
        assert torch.equal(got, right)
