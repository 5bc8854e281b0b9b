"""What is too small to count."""

from __future__ import annotations

import torch


def negligible(dtype: torch.dtype) -> float:
    """Return ε², the weight below which a term of a mean contributes exactly nothing.

    Beside terms of weight 1 it is a part in ε of rounding. Left in, its gradient would be denormal
    numbers in the end, and on a processor a matrix product with these takes a hundred times longer:
    a semi-supervised training would slow down as its classifier becomes sure.
    """
    return torch.finfo(dtype).eps ** 2
