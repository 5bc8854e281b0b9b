"""Checks of values, masks, indices and generators."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ppl_vae.data import sparse
from ppl_vae.data.factors import Factors
from ppl_vae.errors import describe, seed_of
from ppl_vae.tensors import as_tensor

_WIDER = {torch.bool: torch.uint8, torch.uint16: torch.int32, torch.uint32: torch.int64}
"""For integer dtypes that torch does not compute with, one that represents all of their values."""


def checked_values(values: Any) -> Tensor:
    """Return a tensor ``(N, *event)``, dense or CSR, in a dtype that torch computes with."""
    if isinstance(values, np.ndarray):
        values = as_tensor("values", values)
    elif isinstance(values, sparse.SciPySparse):
        values = sparse.from_scipy(values)
    if not isinstance(values, Tensor):
        raise TypeError(f"values must be a tensor or an array, got {type(values).__name__}")
    got = describe(values)
    if values.is_complex() or values.is_quantized:
        raise TypeError(f"values must be integer or floating point, got {got}; convert them")
    if values.layout not in (torch.strided, torch.sparse_csr) or values.device.type == "meta":
        raise TypeError(f"values must be a dense or CSR tensor with data, got {got}")
    if values.ndim < 2 or not math.prod(values.shape):
        raise ValueError(f"values must have shape (N, *event) and not be empty, got {got}")
    if sparse.is_sparse(values):
        return _checked_csr(values)
    if values.dtype == torch.uint64:
        values = values.view(torch.int64)
        if (values < 0).any():
            raise ValueError(f"values must be below 2^63, got larger ones in {got}; give floats")
    return values.to(_WIDER.get(values.dtype, values.dtype))


def _checked_csr(values: Tensor) -> Tensor:
    """Return a matrix whose entries are of a dtype that torch computes with."""
    if values.ndim != 2:
        raise ValueError(f"sparse values must have shape (N, D), got {describe(values)}")
    entries = checked_values(values.values()[:, None])[:, 0] if values._nnz() else values.values()
    if entries.dtype == values.dtype:
        return values
    parts = values.crow_indices(), values.col_indices(), entries
    return sparse.csr_tensor(*parts, tuple(values.shape), check=False)


def checked_context(context: Any, values: Tensor, name: str = "context") -> Tensor:
    """Return a finite floating tensor ``(N, features)``, on the values' device."""
    if isinstance(context, np.ndarray):
        context = as_tensor(name, context)
    expected = f"{name} must be numbers of shape ({len(values)}, features)"
    if not isinstance(context, Tensor) or context.is_complex() or context.layout != torch.strided:
        raise TypeError(f"{expected}, got {describe(context)}")
    if context.ndim != 2 or len(context) != len(values) or not context.numel():
        raise ValueError(f"{expected}, got {describe(context)}; give a row for each datum")
    if not context.is_floating_point():  # one-hot codes
        context = context.to(torch.get_default_dtype())
    if not context.isfinite().all():
        where = tuple((~context.isfinite()).nonzero()[0].tolist())
        raise ValueError(f"{name} must be finite, got {context[where]} at index {where}")
    return context.to(values.device)


def checked_mask(mask: Any, values: Tensor) -> Tensor:
    """Return a boolean mask of the values' shape, not False everywhere, on their device."""
    if sparse.is_sparse(values):
        raise TypeError("mask must be None for sparse values, whose 0 is a value; make them dense")
    if isinstance(mask, np.ndarray):
        mask = as_tensor("mask", mask)
    expected = f"mask must be boolean, of the values' shape {tuple(values.shape)}"
    fix = "give True where a value is observed"
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"{expected}, got {describe(mask)}; {fix}")
    if mask.shape != values.shape:
        raise ValueError(f"{expected}, got {describe(mask)}; {fix}")
    if not mask.any():
        raise ValueError(f"{expected}, and True somewhere, got False everywhere; {fix}")
    return mask.to(values.device)


def checked_factors(factors: Any, values: Tensor) -> Factors:
    """Return factors of as many items as there are values, on their device."""
    if not isinstance(factors, Factors):
        fix = "give data.Factors(values, names)"
        raise TypeError(f"factors must be a Factors, got {describe(factors)}; {fix}")
    if len(factors) != len(values):
        fix = "give a row for each item"
        raise ValueError(f"factors must be of {len(values)} items, got {len(factors)}; {fix}")
    if factors.values.device == values.device:
        return factors
    return factors.with_values(lambda t: t.to(values.device))


PART = 2**20
"""Values that are read at once where all are checked, to bound memory."""


def parts_of(values: Tensor) -> Iterator[Tensor]:
    """Yield views of some rows at a time, about `PART` values."""
    return iter(values.split(max(1, PART // max(1, values[:1].numel()))))


def extremes(values: Tensor) -> tuple[int | float, int | float]:
    """Return the least and the largest value, NaN if there is one, without a copy of all."""
    of_each = torch.stack([torch.stack(part.aminmax()) for part in parts_of(values)])
    low, high = of_each.aminmax()
    return low.item(), high.item()


def check_representable(values: Tensor, dtype: torch.dtype, name: str) -> None:
    """Raise ValueError if integers would be rounded in a floating dtype."""
    eps = torch.finfo(dtype).eps
    if values.is_floating_point() and torch.finfo(values.dtype).eps >= eps:
        return
    low, high = extremes(values)
    if max(-low, high) > 2 / eps:
        raise ValueError(
            f"integers of {name!r} must be at most {2 / eps:.0f} for {dtype}, got {low} to {high}; "
            f"use float64 (torch.set_default_dtype(torch.float64), pair.double()) or give floats"
        )


def seeded_generator(seed: object, device: torch.device) -> torch.Generator:
    """Return a new generator on a device; raise an error for a seed that is not one."""
    return torch.Generator(device).manual_seed(seed_of("", seed))


def optional_generator(owner: str, generator: object) -> torch.Generator | None:
    """Return a torch generator or None unchanged; raise TypeError for anything else."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    raise TypeError(f"{owner}: generator must be a torch.Generator, got {describe(generator)}")


def as_index(
    name: str, indices: Tensor | np.ndarray | Sequence[int], count: int, fix: str = ""
) -> Int64[Tensor, " chosen"]:
    """Return indices, or those where a boolean mask is True, as int64 in ``[-count, count)``.

    Raises TypeError unless they are integers or booleans, ValueError for another shape, and
    IndexError if one is out of range.
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
    """Return distinct indices, at least one, as int64 in ``[0, count)``; see :func:`as_index`.

    Raises ValueError, not IndexError, if one is out of range, or comes twice.
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
