"""How unconstrained numbers become standard deviations, everywhere in the package."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_SCALE = 1e-4
"""The floor of every learned standard deviation.

A density with a scale that goes to zero is unbounded, and its float32 gradients overflow long
before; 1e-4 lies far below any scale a posterior or prior takes on data of unit size.
"""


def positive_scale(unconstrained: Tensor) -> Tensor:
    """Return softplus(unconstrained) + 1e-4, of the same shape."""
    # By default torch takes softplus(s) for s from 20 on, which is off by 1e-10 in float64.
    return F.softplus(unconstrained, threshold=40.0) + MIN_SCALE


def inverse_softplus(scale: Tensor) -> Tensor:
    """Return the unconstrained number whose softplus is ``scale`` (all entries positive)."""
    return scale + torch.log(-torch.expm1(-scale))
