r"""Log-densities in saddle-point form, without cancellation for large counts and shapes.

At x = μ = 10⁷, x log μ - μ - log x! = -9 is a difference of numbers of size 10⁸, of which float32
retains no digit. It equals -D - g with the deviance D = x log(x / μ) - x + μ ≥ 0, which is 0 at
x = μ, and g(x) = log x! - x log x + x ≥ 0, about ½ log 2πx. D is a series for x near μ, and g is
Stirling's formula with its remainder as a series. Of Γ itself, h(t) = log Γ(t) - t log t + t.

Source: Loader 2000, "Fast and accurate computation of binomial probabilities", section 3.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_NEAR = 0.25
"""Threshold of |v| = |a - b| / (a + b) below which log(a / b) is a series in v."""

_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
"""log Γ(t + 1) = t log t - t + ½ log 2πt + Σ_n c_n t^(1-2n)."""


def broadcast_floats(*tensors: Tensor) -> list[Tensor]:
    """Return tensors broadcast and in a common dtype, at least float32.

    bfloat16 does not hold counts above 256, nor their masses.
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return list(torch.broadcast_tensors(*(t.to(dtype) for t in tensors)))


def poisson_deviance(x: Tensor, mean: Tensor) -> Tensor:
    """Return x log(x / μ) - x + μ, never negative, for tensors of one shape and dtype."""
    return _PoissonDeviance.apply(x, mean)


def negative_binomial_deviance(x: Tensor, mean: Tensor, r: Tensor) -> Tensor:
    """Return x log[x (r + μ) / μ (r + x)] - r log[(r + x) / (r + μ)], never negative."""
    return _NegativeBinomialDeviance.apply(x, mean, r)


def gamma_deviance(x: Tensor, mean: Tensor) -> Tensor:
    """Return x / m - 1 - log(x / m), never negative, for x > 0 of the shape and dtype of m."""
    return _GammaDeviance.apply(x, mean)


def stirling_remainder(x: Tensor) -> Tensor:
    """Return g(x) = log x! - x log x + x: 0 at 0, and ½ log 2πx + 1 / 12x - ... for large x."""
    threshold = _stirling_threshold(x)
    below, above = x.clamp(max=threshold), x.clamp(min=threshold)
    log_x = torch.log(x.clamp(min=torch.finfo(x.dtype).tiny))
    direct = torch.lgamma(below + 1) - below * log_x + below
    stirling = 0.5 * (log_x + math.log(2 * math.pi)) + _stirling_series(above)
    return torch.where(x < threshold, direct, stirling)


def log_gamma_increment(r: Tensor, x: Tensor) -> Tensor:
    """Return h(r + x) - h(r) for h(t) = log Γ(t) - t log t + t, of r > 0 and x ≥ 0."""
    threshold = _stirling_threshold(r)
    below, above = r.clamp(max=threshold), r.clamp(min=threshold)
    # The terms log t / 2 of both are combined, since they would cancel.
    gain = _stirling_series(above + x) - _stirling_series(above) - 0.5 * torch.log1p(x / above)
    small = scaled_log_gamma(below + x) - scaled_log_gamma(below)
    return torch.where(r < threshold, small, gain)


def scaled_log_gamma(t: Tensor) -> Tensor:
    """Return h(t) = log Γ(t) - t log t + t of t > 0: ½ log(2π / t) + 1 / 12t - ... for large t."""
    threshold = _stirling_threshold(t)
    below, above = t.clamp(max=threshold), t.clamp(min=threshold)
    log_t = t.log()
    direct = torch.lgamma(below) - below * log_t + below
    stirling = _stirling_series(above) - 0.5 * (log_t - math.log(2 * math.pi))
    return torch.where(t < threshold, direct, stirling)


def _stirling_threshold(t: Tensor) -> float:
    """Return the argument from which on Stirling's series is accurate in the dtype."""
    return 16.0 if t.dtype == torch.float64 else 8.0


def _stirling_series(t: Tensor) -> Tensor:
    inverse = 1 / t
    square = inverse.square()
    last, *before = reversed(_STIRLING if t.dtype == torch.float64 else _STIRLING[:3])
    total = torch.full_like(square, last)
    for c in before:
        total = total * square + c
    return total * inverse


def _atanh_remainder(v: Tensor) -> Tensor:
    """Return atanh(v) / v - 1 = v² / 3 + v⁴ / 5 + ..., for |v| < 1/4."""
    square = v.square().clamp(max=_NEAR**2)
    terms = 14 if v.dtype == torch.float64 else 5
    total = torch.full_like(square, 1 / (2 * terms + 1))
    for n in range(2 * terms - 1, 1, -2):
        total = total * square + 1 / n
    return total * square


def _deviance(x: Tensor, mean: Tensor, difference: Tensor) -> Tensor:
    """Return x log(x / μ) - (x - μ), given a more accurate difference x - μ."""
    both = x + mean
    v = difference / both.clamp(min=torch.finfo(x.dtype).tiny)
    near = v * (difference + 2 * x * _atanh_remainder(v))
    far = x * _log_ratio(x.clamp(min=torch.finfo(x.dtype).tiny), mean) - difference
    return torch.where(v.abs() < _NEAR, near, far)


def minus_log1p(t: Tensor, one_plus_t: Tensor) -> Tensor:
    """Return t - log(1 + t), given a more accurate 1 + t."""
    v = t / (2 + t)
    near = v * (t - 2 * _atanh_remainder(v))
    return torch.where(v.abs() < _NEAR, near, t - one_plus_t.log())


def _slope(x: Tensor, mean: Tensor) -> Tensor:
    """Return 1 - x / μ, the derivative of the Poisson's deviance in μ."""
    return torch.where(x == 0, 1.0, (mean - x) / mean)


def _log_ratio(x: Tensor, mean: Tensor) -> Tensor:
    """Return log(x / μ), by roots, so that the quotient of a count by a tiny mean is finite."""
    return 2 * torch.log(x.sqrt() / mean.sqrt())


class _PoissonDeviance(torch.autograd.Function):
    """D(x, μ) with derivatives in closed form, since those of the branches would cancel."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, mean: Tensor) -> Tensor:
        return _deviance(x, mean, x - mean)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        x, mean = ctx.saved_tensors
        of_x, of_mean = ctx.needs_input_grad
        return (
            gradient * _log_ratio(x, mean) if of_x else None,
            gradient * _slope(x, mean) if of_mean else None,
        )


class _GammaDeviance(torch.autograd.Function):
    """x / m - 1 - log(x / m), with derivatives in closed form."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, mean: Tensor) -> Tensor:
        t = (x - mean) / mean
        v = (x - mean) / (x + mean)
        near = v * (t - 2 * _atanh_remainder(v))
        return torch.where(v.abs() < _NEAR, near, t - _log_ratio(x, mean))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        x, mean = ctx.saved_tensors
        of_x, of_mean = ctx.needs_input_grad
        t = (x - mean) / mean
        return gradient * t / x if of_x else None, -gradient * t / mean if of_mean else None


class _NegativeBinomialDeviance(torch.autograd.Function):
    """r (t - log(1 + t)) + D(x, μ (1 + t)) with 1 + t = (r + x) / (r + μ): both 0 at x = μ."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, mean: Tensor, r: Tensor) -> Tensor:
        spread, difference = r + mean, x - mean
        ratio = (r + x) / spread
        of_failures = r * minus_log1p(difference / spread, ratio)
        return of_failures + _deviance(x, mean * ratio, difference * (r / spread))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        x, mean, r = ctx.saved_tensors
        of_x, of_mean, of_r = ctx.needs_input_grad
        spread = r + mean
        ratio = (r + x) / spread
        return (
            gradient * _log_ratio(x, mean * ratio) if of_x else None,
            gradient * _slope(x, mean) * (r / spread) if of_mean else None,
            gradient * minus_log1p((x - mean) / spread, ratio) if of_r else None,
        )
