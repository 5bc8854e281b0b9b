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
    real = isinstance(min_scale, Real) and not isinstance(min_scale, bool)
    if not (real and 1e-18 <= min_scale <= 1e18):  # type: ignore[operator]
        raise ValueError(
            f"{owner}: min_scale must be a positive number (1e-18 to 1e18, so that float32 holds "
            f"its square) such as {MIN_SCALE:g}, got {describe(min_scale)}"
        )
    return number(owner, "min_scale", min_scale)


def inverse_softplus(scale: Tensor) -> Tensor:
    """Return the number whose softplus is ``scale`` (all entries positive)."""
    return scale + torch.log(-torch.expm1(-scale))
