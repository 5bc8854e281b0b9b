"""Logarithms of sums and means of exponentials, at every size of the terms."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.estimators.rounding import negligible


class Powers(NamedTuple):
    """w^r of each term relative to the largest, as logarithms.

    Args:
        largest: max log w, size 1 in the dimension; a constant when differentiating.
        scaled: r (log w - max log w); -∞ where that is below ε² of the largest, and everywhere if
            all w are 0: these count exactly nothing, and their derivative is 0 and not 0 · ∞.
    """

    largest: Tensor
    scaled: Tensor

    @classmethod
    def of(cls, log_w: Tensor, power: float, dim: int) -> Powers:
        """Return those of log weights along a dimension."""
        largest = log_w.detach().amax(dim, keepdim=True)
        scaled = log_w - largest
        if power != 1:
            scaled = power * scaled
        counts = scaled >= math.log(negligible(log_w.dtype))  # NaN, where all are 0, does not
        return cls(largest, scaled.where(counts, -math.inf))


def log_power_mean(log_w: Tensor, power: float, dim: int) -> Tensor:
    r"""Return (1/r) log (1/K) Σ_k w_k^r, with size 1 in the dimension, for r > 0.

    As r → 0 this is the mean of log w, and log-sum-exp would find it as a difference of numbers of
    order 1, divided by r: below 1 the mean of w^r is taken as 1 + mean expm1(r log w) where it is
    not small against the largest. -∞ where all w are 0, with derivative 0.
    """
    size = log_w.shape[dim]
    largest, scaled = Powers.of(log_w, power, dim)
    terms = scaled.exp()
    # The largest adds 1: only where all are 0 is the sum smaller.
    log_mean = terms.sum(dim, keepdim=True).clamp(min=0.5).log() - math.log(size)
    if power < 1:
        # With the derivative of exp: that of expm1 is computed from a rounded value.
        less = (scaled.detach().expm1() + (terms - terms.detach())).mean(dim, keepdim=True)
        log_mean = torch.where(less > -0.5, less.clamp(min=-0.75).log1p(), log_mean)
    return largest + (log_mean if power == 1 else log_mean / power)


def shares(log_w: Tensor, power: float, dim: int) -> Tensor:
    """Return w_k^r / Σ_j w_j^r, the derivative of :func:`log_power_mean`; 0 where all w are 0."""
    terms = Powers.of(log_w, power, dim).scaled.exp()
    return terms / terms.sum(dim, keepdim=True).clamp(min=0.5)


def log_sum(term: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return log Σ exp(term), dimensions kept; -∞ where all terms are, with derivative 0."""
    nothing = term.detach().amax(dim, keepdim=True) == -math.inf
    total = term.masked_fill(nothing, 0.0).logsumexp(dim, keepdim=True)
    return total.masked_fill(nothing, -math.inf)
