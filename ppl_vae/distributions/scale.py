"""How unconstrained numbers become standard deviations, everywhere in the package."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor
from torch.nn import functional as F

from ppl_vae.errors import describe, number

MIN_SCALE = 1e-4
"""The floor of every learned standard deviation, unless ``min_scale`` is given.

A density with a scale that goes to zero is unbounded, and its float32 gradients overflow long
before; 1e-4 lies far below any scale a posterior or prior takes on data of unit size.
"""


def positive_scale(unconstrained: Tensor, min_scale: int | float = MIN_SCALE) -> Tensor:
    """Return softplus(unconstrained) + min_scale, of the same shape."""
    # By default torch takes softplus(s) for s from 20 on, which is off by 1e-10 in float64.
    return F.softplus(unconstrained, threshold=40.0) + min_scale


def checked_min_scale(owner: str, min_scale: object) -> int | float:
    """Return the floor of a learned scale; raise an error that names it if it cannot be one."""
    real = isinstance(min_scale, Real) and not isinstance(min_scale, bool)
    if not (real and 1e-18 <= min_scale <= 1e18):  # type: ignore[operator]
        raise ValueError(
            f"{owner}: min_scale must be a positive number (1e-18 to 1e18, whose square float32 "
            f"has), the least that a learned scale may be, such as {MIN_SCALE:g}, "
            f"got {describe(min_scale)}"
        )
    return number(owner, "min_scale", min_scale)


def inverse_softplus(scale: Tensor) -> Tensor:
    """Return the unconstrained number whose softplus is ``scale`` (all entries positive)."""
    return scale + torch.log(-torch.expm1(-scale))
