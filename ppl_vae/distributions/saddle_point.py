r"""Masses of counts in saddle-point form, in which nothing large cancels.

x log μ - μ - log x! is, at x = μ = 10⁷, a difference of numbers of 10⁸ that is 9: float32 has
nothing left of it. The same is -D - g with the deviance D = x log(x / μ) - x + μ, which is 0 at
x = μ, and g(x) = log x! - x log x + x, about ½ log 2πx; neither is negative. D has a series where
x is near μ, and g is Stirling's formula with its error as a series.

Source: Loader 2000, "Fast and accurate computation of binomial probabilities", section 3.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_NEAR = 0.25
"""|v| = |a - b| / (a + b) below which log(a / b) is summed as a series of v."""

_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
"""log Γ(t + 1) = t log t - t + ½ log 2πt + Σ_n c_n t^(1-2n)."""


def common(*tensors: Tensor) -> list[Tensor]:
    """Return tensors broadcast, and in one dtype of 32 bits at least.

    Counts above 256 are not in bfloat16, nor is a mass of theirs.
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


def log_factorial_excess(x: Tensor) -> Tensor:
    """Return g(x) = log x! - x log x + x: 0 at 0, and ½ log 2πx + 1 / 12x - ... for large x."""
    first = _first(x)
    below, above = x.clamp(max=first), x.clamp(min=first)
    log_x = torch.log(x.clamp(min=torch.finfo(x.dtype).tiny))
    direct = torch.lgamma(below + 1) - below * log_x + below
    stirling = 0.5 * (log_x + math.log(2 * math.pi)) + _series(above)
    return torch.where(x < first, direct, stirling)


def log_gamma_gain(r: Tensor, x: Tensor) -> Tensor:
    """Return h(r + x) - h(r) for h(t) = log Γ(t) - t log t + t, of r > 0 and x ≥ 0."""
    first = _first(r)
    below, above = r.clamp(max=first), r.clamp(min=first)
    # Here the terms log t / 2 of both would cancel.
    gain = _series(above + x) - _series(above) - 0.5 * torch.log1p(x / above)
    return torch.where(r < first, _h(below + x) - _h(below), gain)


def _h(t: Tensor) -> Tensor:
    first = _first(t)
    below, above = t.clamp(max=first), t.clamp(min=first)
    log_t = t.log()
    direct = torch.lgamma(below) - below * log_t + below
    stirling = _series(above) - 0.5 * (log_t - math.log(2 * math.pi))
    return torch.where(t < first, direct, stirling)


def _first(t: Tensor) -> float:
    """Return from where on Stirling's series is right to the rounding of the dtype."""
    return 16.0 if t.dtype == torch.float64 else 8.0


def _series(t: Tensor) -> Tensor:
    inverse = 1 / t
    square = inverse.square()
    last, *before = reversed(_STIRLING if t.dtype == torch.float64 else _STIRLING[:3])
    total = torch.full_like(square, last)
    for c in before:
        total = total * square + c
    return total * inverse


def _atanh_excess(v: Tensor) -> Tensor:
    """Return atanh(v) / v - 1 = v² / 3 + v⁴ / 5 + ..., for |v| < 1/4."""
    square = v.square().clamp(max=_NEAR**2)
    terms = 14 if v.dtype == torch.float64 else 5
    total = torch.full_like(square, 1 / (2 * terms + 1))
    for n in range(2 * terms - 1, 1, -2):
        total = total * square + 1 / n
    return total * square


def _deviance(x: Tensor, mean: Tensor, difference: Tensor) -> Tensor:
    """Return x log(x / μ) - (x - μ), where the difference x - μ is known better than its terms."""
    both = x + mean
    v = difference / both.clamp(min=torch.finfo(x.dtype).tiny)
    near = v * (difference + 2 * x * _atanh_excess(v))
    far = x * _log_ratio(x.clamp(min=torch.finfo(x.dtype).tiny), mean) - difference
    return torch.where(v.abs() < _NEAR, near, far)


def log1p_deficit(t: Tensor, one_more: Tensor) -> Tensor:
    """Return t - log(1 + t), where 1 + t is known better near 0."""
    v = t / (2 + t)
    near = v * (t - 2 * _atanh_excess(v))
    return torch.where(v.abs() < _NEAR, near, t - one_more.log())


def _slope(x: Tensor, mean: Tensor) -> Tensor:
    """Return 1 - x / μ, the derivative of the Poisson's deviance in μ."""
    return torch.where(x == 0, 1.0, (mean - x) / mean)


def _log_ratio(x: Tensor, mean: Tensor) -> Tensor:
    """Return log(x / μ); roots, so that the quotient of a count and a tiny mean is finite."""
    return 2 * torch.log(x.sqrt() / mean.sqrt())


class _PoissonDeviance(torch.autograd.Function):
    """Has its derivatives in closed form: those of the branches would cancel."""

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


class _NegativeBinomialDeviance(torch.autograd.Function):
    """Is r (t - log(1 + t)) + D(x, μ (1 + t)), 1 + t = (r + x) / (r + μ): both 0 at x = μ."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, mean: Tensor, r: Tensor) -> Tensor:
        spread, difference = r + mean, x - mean
        ratio = (r + x) / spread
        of_failures = r * log1p_deficit(difference / spread, ratio)
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
            gradient * log1p_deficit((x - mean) / spread, ratio) if of_r else None,
        )
