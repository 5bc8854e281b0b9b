"""Checks of values, masks, indices and generators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ppl_vae.errors import describe, number, seed_of

_WIDER = {torch.bool: torch.uint8, torch.uint16: torch.int32, torch.uint32: torch.int64}
"""For integer dtypes that torch does not compute with, one that represents all of their values."""


def with_supported_dtype(values: Tensor) -> Tensor:
    """Return values in a dtype that torch computes with; `check_values` refuses the rest."""
    if not isinstance(values, Tensor):
        return values
    if values.dtype == torch.uint64:
        signed = values.view(torch.int64)
        if (signed < 0).any():
            raise ValueError(
                f"values must be below 2^63, got larger ones in {describe(values)}; convert them "
                f"to floating point"
            )
        return signed
    return values.to(_WIDER.get(values.dtype, values.dtype))


def default_scale(values: Tensor, mask: Tensor | None) -> float:
    """Return the scale if none is given: 255 for uint8 with an observed value above 1, else 1."""
    if not isinstance(values, Tensor) or values.dtype != torch.uint8:
        return 1.0
    grey = values > 1
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == values.shape:
        grey = grey & mask
    return 255.0 if grey.any() else 1.0


def check_values(values: Tensor, scale: int | float, mask: Tensor | None = None) -> None:
    """Raise TypeError or ValueError unless ``values / scale`` can be given to a model.

    Values where the mask is False are not looked at.
    """
    if not isinstance(values, Tensor):
        raise TypeError(f"values must be a tensor or an array, got {type(values).__name__}")
    if values.is_complex() or values.is_quantized:
        raise TypeError(
            f"values must be integer or floating point, got {describe(values)}; convert them"
        )
    if values.layout != torch.strided or values.device.type == "meta":
        raise TypeError(f"values must be a dense tensor with data, got {describe(values)}")
    if values.ndim < 2 or not values.numel():
        raise ValueError(
            f"values must have shape (N, *event) and not be empty, got {describe(values)}"
        )
    if mask is not None:
        check_mask(mask, values)
    number("", "scale", scale, above=0, fix="it is the value that means 1.0")
    if not values.is_floating_point():
        largest = observed(values, mask).max()
        if scale != 1 and largest > scale:
            raise ValueError(
                f"integers must be at most scale={scale:g}, got {largest}; give the value that "
                f"means 1.0 (255 for 8-bit images, 1 for values that are to stay as they are)"
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


def check_representable(values: Tensor, dtype: torch.dtype, name: str) -> None:
    """Raise ValueError if integers would be rounded in a floating dtype."""
    eps = torch.finfo(dtype).eps
    if values.is_floating_point() and torch.finfo(values.dtype).eps >= eps:
        return
    low, high = (v.item() for v in values.aminmax())
    if max(-low, high) > 2 / eps:
        raise ValueError(
            f"integers of {name!r} must be at most {2 / eps:.0f} for {dtype}, got {low} to {high}; "
            f"use float64 (torch.set_default_dtype(torch.float64), pair.double()), or give "
            f"floating-point values, which may be rounded"
        )


def seeded_generator(seed: object, device: torch.device) -> torch.Generator:
    """Return a new generator on a device; raise an error for a seed that is not one."""
    return torch.Generator(device).manual_seed(seed_of("", seed))


def optional_generator(owner: str, generator: object) -> torch.Generator | None:
    """Return a torch generator or None unchanged; raise TypeError for anything else."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    raise TypeError(f"{owner}: generator must be a torch.Generator, got {describe(generator)}")


def check_mask(mask: Tensor, values: Tensor) -> None:
    """Raise TypeError or ValueError unless ``mask`` is boolean, of the values' shape, not empty."""
    expected = f"mask must be boolean, of the values' shape {tuple(values.shape)}"
    fix = "give True where a value is observed"
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"{expected}, got {describe(mask)}; {fix}")
    if mask.shape != values.shape:
        raise ValueError(f"{expected}, got {describe(mask)}; {fix}")
    if not mask.any():
        raise ValueError(f"{expected}, and True somewhere, got False everywhere; {fix}")


def as_index(
    name: str, indices: Tensor | np.ndarray | Sequence[int], count: int, fix: str = ""
) -> Int64[Tensor, " chosen"]:
    """Return indices, or those where a boolean mask is True, as int64 in ``[-count, count)``.

    Raises:
        TypeError: not integers or booleans.
        IndexError: out of range.
        ValueError: wrong shape.
    """
    fix = fix or f"give integers from 0 to {count - 1}, or a mask of {count} booleans"
    if not isinstance(indices, (Tensor, np.ndarray, Sequence)) or isinstance(indices, str):
        raise TypeError(f"{name} must be a sequence, got {describe(indices)}; {fix}")
    is_empty = isinstance(indices, Sequence) and not indices
    try:
        index = torch.as_tensor(indices, dtype=torch.int64 if is_empty else None)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of something else
        raise TypeError(f"{name} must be integers, got {describe(indices)}; {fix}") from error
    if index.is_floating_point() or index.is_complex():
        raise TypeError(f"{name} must be integers or booleans, got {describe(index)}; {fix}")
    mask = index.dtype == torch.bool
    if index.ndim != 1 or (mask and len(index) != count):
        raise ValueError(f"{name} must be flat indices or a mask, got {describe(index)}; {fix}")
    index = index.nonzero().flatten() if mask else index.to(torch.int64)
    if len(index):
        low, high = (int(v) for v in index.aminmax())
        if low < -count or high >= count:
            outside = low if low < -count else high
            raise IndexError(f"{name} must be from 0 to {count - 1}, got {outside}; {fix}")
    return index


def distinct_indices(
    name: str, indices: Tensor | np.ndarray | Sequence[int], count: int
) -> Int64[Tensor, " chosen"]:
    """Return distinct indices, or those where a mask is True, as int64 in ``[0, count)``.

    Raises:
        TypeError: not integers or booleans.
        ValueError: none, out of range, or one of them twice.
    """
    fix = f"give distinct integers from 0 to {count - 1}, or a mask of {count} booleans"
    try:
        index = as_index(name, indices, count, fix)
    except IndexError as error:
        raise ValueError(str(error)) from error
    if not len(index):
        raise ValueError(f"{name} must have at least one item, got none; {fix}")
    if (low := int(index.min())) < 0:
        raise ValueError(f"{name} must be from 0 to {count - 1}, got {low}; {fix}")
    values, counts = index.unique(return_counts=True)
    if counts.max() > 1:
        twice = int(values[counts.argmax()])
        raise ValueError(f"{name} must be distinct, got {twice} more than once; {fix}")
    return index
