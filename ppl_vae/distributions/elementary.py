r"""Elementary functions of float32 for compilers: an exponential, a polynomial, a division at most.

A vector library computes log1p, expm1 and tanh of any argument to the last digit, at a price. The
activations and log-densities of a VAE need them on part of their range, where a short polynomial
has the same digits. Compiled for a processor with AVX-512, these functions take half the time of
torch's (``benchmarks/elementwise.py``). Uncompiled, where each operation passes over memory,
torch's own are faster.

Arguments and results are float32 tensors of any shape. Where a result is a normal number, its error
is at most 3 units in the last place (``tests/distributions/test_elementary.py``), also in the
tails; infinities and NaN give the limits. The polynomials are minimax fits of the relative error,
which is below a tenth of a unit in the last place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Ascending powers of R(t) / t, (tanh(√t) / √t - 1) / t and (expm1(x) - x) / x².
_LOG1P = (0.66666412, 0.400217, 0.27999136, 0.2802448)  # 0 ≤ t ≤ 1/9
_TANH = (-0.3333332, 0.13332602, -0.053853855, 0.02107775, -0.006282463)  # 0 ≤ √t ≤ 0.55
_EXPM1 = (0.49999988, 0.16666308, 0.041633245, 0.008196125, 0.0011282312)  # -0.5 ≤ x ≤ 0


def log1p_exp_minus(x: Tensor) -> Tensor:
    r"""Return log(1 + e^{-x}) for x ≥ 0.

    With e = e^{-x}, s = e / (2 + e) and h = e² / 2, log(1 + e) = e - (h - s (h + R(s²))), where
    R(t) = 2 Σ_{n≥1} t^n / (2n + 1), the form of the C library of FreeBSD.
    """
    e = torch.exp(-x)
    s = e / (2 + e)
    t, h = s * s, 0.5 * e * e
    return e - (h - s * (h + t * _polynomial(_LOG1P, t)))


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + e^x)."""
    return x.clamp(min=0) + log1p_exp_minus(x.abs())


def log_sigmoid(x: Tensor) -> Tensor:
    """Return -log(1 + e^{-x})."""
    return x.clamp(max=0) - log1p_exp_minus(x.abs())


def sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + e^{-x}), by the exponential that the functions above take."""
    e = torch.exp(-x.abs())
    reciprocal = 1 / (1 + e)
    return torch.where(x >= 0, reciprocal, e * reciprocal)


def bernoulli_log_prob(logits: Tensor, value: Tensor) -> Tensor:
    """Return log p(x) = x l - log(1 + e^l) for logits l; both broadcast.

    The two terms that are large where l is cancel first, and exactly for x = 0 and 1.
    """
    return value * logits - logits.clamp(min=0) - log1p_exp_minus(logits.abs())


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent."""
    size, square = x.abs(), x * x
    e = torch.exp(-2 * size)
    near = size + size * square * _polynomial(_TANH, square)
    return torch.where(size < 0.55, near, (1 - e) / (1 + e)).copysign(x)


def elu(x: Tensor) -> Tensor:
    """Return x where it is positive, and e^x - 1 elsewhere."""
    negative = x.clamp(max=0)
    near = negative + negative * negative * _polynomial(_EXPM1, negative)
    below = torch.where(x > -0.5, near, torch.exp(negative) - 1)
    return torch.where(x > 0, x, below)


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    *others, highest = coefficients
    value = highest * x + others.pop()
    for coefficient in reversed(others):
        value = value * x + coefficient
    return value
