"""How an integer 0, ..., scale becomes a real number in [0, 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.data.checks import extremes, parts_of
from ppl_vae.errors import integer
from ppl_vae.uniform_draws import uniform

MAX_LEVELS = 2**16
"""The most levels between which float32 has room for noise (7 bits of it)."""


def count_levels(values: Tensor, scale: int | float, name: str) -> int:
    """Return scale + 1; raise ValueError unless the values are integers 0, ..., scale."""
    problem = ""
    if scale != int(scale) or scale >= MAX_LEVELS:
        problem = f"scale={scale:g}; give the largest integer, at most {MAX_LEVELS - 1}"
    else:
        low, high = extremes(values)
        whole = not values.is_floating_point() or all(
            bool((part == part.round()).all()) for part in parts_of(values)
        )
        if low < 0 or high > scale or not whole:
            problem = (
                f"{values.dtype} values from {low:g} to {high:g} with scale={scale:g}; give the "
                f"integers and their scale, or binarise='none' for real values"
            )
    if problem:
        raise ValueError(f"levels: {name!r} must hold integers 0, ..., scale, got {problem}")
    return int(scale) + 1


def check_dequantised(values: Tensor, scale: int | float, levels: object, name: str) -> int:
    """Return the levels; raise an error unless the observed values can be (k + u) / levels."""
    levels = integer("", "dequantised_levels", levels, 2)
    if levels > MAX_LEVELS:
        raise ValueError(f"dequantised_levels must be at most {MAX_LEVELS}, got {levels}")
    low, high = (v / scale for v in extremes(values))
    if not values.is_floating_point() or scale != 1 or low < 0 or high > 1:
        raise ValueError(
            f"dequantised_levels={levels}: {name!r} must hold (k + u) / {levels} in [0, 1] with "
            f"scale=1, got {values.dtype} from {low:g} to {high:g} with scale={scale:g}; see "
            f"Dataset.dequantised"
        )
    return levels


def add_noise(level: Tensor, levels: int, generator: torch.Generator | None) -> Tensor:
    """Return v = (level + u) / levels in (0, 1), u ~ U[0, 1), for integers of a floating dtype.

    u is the middle of one of 2^b equal steps, with the b bits that float32 has left beside the
    integer (15 for 256 levels): nothing rounds to another level, and floor(levels * v), in float64,
    is the integer again.
    """
    steps = 2 ** (23 - (levels - 1).bit_length())
    u = uniform(level.shape, generator, level.device)
    return (level + ((u * steps).floor() + 0.5) / steps) / levels
