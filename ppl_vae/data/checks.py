"""What the values and labels of a dataset, and choices of its items, must be."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ppl_vae.errors import describe


def check_values(values: Tensor, scale: int | float, mask: Tensor | None = None) -> None:
    """Raise TypeError or ValueError unless ``values / scale`` can be given to a model.

    Where the mask is False they may be anything.
    """
    if not isinstance(values, Tensor):
        raise TypeError(f"values must be a tensor or an array, got {type(values).__name__}")
    if values.dtype != torch.uint8 and not values.is_floating_point():
        raise TypeError(
            f"values must be uint8 or floating, got {describe(values)}; convert them, and give the "
            f"scale that means 1.0"
        )
    if values.ndim < 2 or not values.numel():
        raise ValueError(
            f"values must have shape (N, *event) and not be empty, got {describe(values)}"
        )
    if mask is not None:
        check_mask(mask, values)
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise TypeError(f"scale must be a number, got {describe(scale)}")
    if not 0 < scale <= sys.float_info.max:
        raise ValueError(
            f"scale must be finite and above 0, got {scale}; it is the value that means 1.0"
        )
    if values.dtype == torch.uint8:
        largest = observed(values, mask).max()
        if largest > scale:
            raise ValueError(
                f"uint8 values must be at most scale={scale:g}, got {largest}; give the value "
                f"that means 1.0 (255 for 8-bit images)"
            )
    elif not observed(values, mask).isfinite().all():
        bad = values.isfinite().logical_not()
        where = tuple((bad if mask is None else bad & mask).nonzero()[0].tolist())
        raise ValueError(
            f"values must be finite, got {values[where]} at index {where}; remove or fill them, or "
            f'say what is missing: mask=, or missing="nan" for from_tensor, from_file and load'
        )


def observed(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the values that are observed, flat where there is a mask."""
    return values if mask is None else values[mask]


def check_mask(mask: Tensor, values: Tensor) -> None:
    """Raise TypeError or ValueError unless ``mask`` says of each value whether it is observed."""
    expected = f"mask must be boolean, of the values' shape {tuple(values.shape)}"
    fix = "give True where a value is observed, one entry for each"
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"{expected}, got {describe(mask)}; {fix}")
    if mask.shape != values.shape:
        raise ValueError(f"{expected}, got {describe(mask)}; {fix}")
    if not mask.any():
        raise ValueError(f"{expected}, and True somewhere, got False throughout; {fix}")


def checked_indices(
    name: str, indices: Tensor | np.ndarray | Sequence[int], count: int
) -> Int64[Tensor, " chosen"]:
    """Return indices, or the places where a mask is True, as int64 in 0, ..., ``count - 1``.

    Raises:
        TypeError: no integers or booleans.
        ValueError: none, outside, or one of them twice.
    """
    fix = f"give distinct integers from 0 to {count - 1}, or a mask of {count} booleans"
    if not isinstance(indices, (Tensor, np.ndarray, Sequence)) or isinstance(indices, str):
        raise TypeError(f"{name} must be a sequence, got {describe(indices)}; {fix}")
    index = torch.as_tensor(indices, dtype=None if len(indices) else torch.int64)
    if index.is_floating_point() or index.is_complex():
        raise TypeError(f"{name} must be integers or booleans, got {describe(index)}; {fix}")
    mask = index.dtype == torch.bool
    if index.ndim != 1 or (mask and len(index) != count):
        raise ValueError(f"{name} must be flat indices or a mask, got {describe(index)}; {fix}")
    index = index.nonzero().flatten() if mask else index.to(torch.int64)
    if not len(index):
        raise ValueError(f"{name} must have at least one item, got none; {fix}")
    low, high = (int(v) for v in index.aminmax())
    if low < 0 or high >= count:
        outside = low if low < 0 else high
        raise ValueError(f"{name} must be from 0 to {count - 1}, got {outside}; {fix}")
    values, often = index.unique(return_counts=True)
    if often.max() > 1:
        twice = int(values[often.argmax()])
        raise ValueError(f"{name} must be distinct, got {twice} more than once; {fix}")
    return index
