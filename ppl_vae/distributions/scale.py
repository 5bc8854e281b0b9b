"""Positive scales from unconstrained numbers."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor
from torch.nn import functional as F

from ppl_vae.errors import describe, number

MIN_SCALE = 1e-4
"""Default lower bound of learned standard deviations.

A density is unbounded as its scale goes to 0, and its float32 gradients overflow long before; 1e-4
is far below any scale of a posterior or prior on data of unit size.
"""


def positive_scale(unconstrained: Tensor, min_scale: int | float = MIN_SCALE) -> Tensor:
    """Return softplus(unconstrained) + min_scale, of the same shape."""
    # torch's default threshold, 20, is off by 2e-9 in float64.
    return F.softplus(unconstrained, threshold=40.0) + min_scale


def checked_min_scale(owner: str, min_scale: object) -> int | float:
    """Return the lower bound of a learned scale, or raise an error."""
    if not is_positive(min_scale):
        expected = "a positive number (1e-18 to 1e18, so that float32 holds its square)"
        raise ValueError(f"{owner}: min_scale must be {expected}, got {describe(min_scale)}")
    return number(owner, "min_scale", min_scale)


def is_positive(value: object) -> bool:
    """Return whether a value is a positive number whose square float32 can hold."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and 1e-18 <= value <= 1e18  # type: ignore[operator]


def inverse_softplus(scale: Tensor) -> Tensor:
    """Return the number whose softplus is ``scale`` (all entries positive)."""
    return scale + torch.log(-torch.expm1(-scale))
