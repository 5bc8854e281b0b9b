"""Logarithms of sums and means of exponentials, stable for terms of any size."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def negligible(dtype: torch.dtype) -> float:
    """Return ε², the weight below which a term of a mean contributes exactly nothing.

    Beside terms of weight 1 it is far below rounding. Left in, its gradient would end up denormal,
    which makes a matrix product on a CPU a hundred times slower: a semi-supervised training would
    slow down as its classifier becomes certain.
    """
    return torch.finfo(dtype).eps ** 2


def _powers(log_w: Tensor, power: float, dim: int) -> tuple[Tensor, Tensor]:
    """Return max log w, size 1 in the dimension, detached, and r (log w - max log w).

    The latter is -∞ where negligible, and everywhere if all w are 0: these contribute nothing, and
    their derivative is 0 rather than 0 · ∞.
    """
    largest = log_w.detach().amax(dim, keepdim=True)
    scaled = log_w - largest
    if power != 1:
        scaled = power * scaled
    counts = scaled >= math.log(negligible(log_w.dtype))  # NaN, where all are 0, does not
    return largest, scaled.where(counts, -math.inf)


def log_power_mean(log_w: Tensor, power: float, dim: int) -> Tensor:
    r"""Return (1/r) log (1/K) Σ_k w_k^r, with size 1 in the dimension, for r > 0.

    As r → 0 this is the mean of log w, which log-sum-exp would find as a difference of numbers of
    order 1, divided by r: for r < 1 the mean of w^r is 1 + mean expm1(r log w), unless it is small
    against the largest. -∞ if all w are 0, with derivative 0.
    """
    size = log_w.shape[dim]
    largest, scaled = _powers(log_w, power, dim)
    terms = scaled.exp()
    # The largest term is 1; the sum is smaller only if all w are 0.
    log_mean = terms.sum(dim, keepdim=True).clamp(min=0.5).log() - math.log(size)
    if power < 1:
        # The derivative is that of exp, since that of expm1 is computed from a rounded value.
        less = (scaled.detach().expm1() + (terms - terms.detach())).mean(dim, keepdim=True)
        log_mean = torch.where(less > -0.5, less.clamp(min=-0.75).log1p(), log_mean)
    return largest + (log_mean if power == 1 else log_mean / power)


def normalised_powers(log_w: Tensor, power: float, dim: int) -> Tensor:
    """Return w_k^r / Σ_j w_j^r, the derivative of :func:`log_power_mean`; 0 if all w are 0."""
    terms = _powers(log_w, power, dim)[1].exp()
    return terms / terms.sum(dim, keepdim=True).clamp(min=0.5)


def log_sums_of_others(log_w: Tensor, dim: int) -> Tensor:
    """Return log Σ_{j≠k} w_j for each k, -∞ if there are none or all are 0; without cancellation.

    The sums to the left and to the right of k are added, since Σ_j w_j - w_k would lose all digits
    where w_k dominates.
    """
    none = torch.full_like(log_w.narrow(dim, 0, 1), -math.inf)
    count = log_w.shape[dim] - 1
    left = torch.cat([none, log_w.narrow(dim, 0, count).logcumsumexp(dim)], dim)
    right = log_w.flip(dim).narrow(dim, 0, count).logcumsumexp(dim).flip(dim)
    return torch.logaddexp(left, torch.cat([right, none], dim))


def log_sum(term: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return log Σ exp(term), dimensions kept; -∞ if all terms are, with derivative 0."""
    nothing = term.detach().amax(dim, keepdim=True) == -math.inf
    total = term.masked_fill(nothing, 0.0).logsumexp(dim, keepdim=True)
    return total.masked_fill(nothing, -math.inf)
