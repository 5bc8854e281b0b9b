"""Checks of the arguments of plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from ppl_vae.errors import describe, reason


def axes_of(ax: Axes | None) -> Axes:
    """Return ``ax``, or the current Axes if it is None; raise TypeError for anything else."""
    if ax is None:
        return plt.gca()
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be matplotlib Axes, as of plt.subplots(), got {describe(ax)}")
    return ax


def array(owner: str, name: str, value: ArrayLike, *dims: int) -> NDArray:
    """Return anything that NumPy takes for an array as float64.

    Raises:
        TypeError: if it is not an array of real numbers on the CPU.
        ValueError: if it is empty, or its number of dimensions is none of ``dims``, if given.
    """
    try:
        given = np.asarray(value)
        if value is None or given.dtype.kind == "c":
            raise TypeError("not real numbers")
        values = given.astype(float)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{owner}: {name} must be an array of numbers, got {describe(value)}: {reason(error)}; "
            f"give tensors as {name}.detach().cpu()"
        ) from error
    if dims and values.ndim not in dims:
        expected = " or ".join(str(d) for d in dims)
        raise ValueError(f"{owner}: {name} must have ndim {expected}, got shape {values.shape}")
    if not values.size:
        raise ValueError(f"{owner}: {name} must not be empty, got shape {values.shape}")
    return values


def finite(owner: str, name: str, value: ArrayLike, *dims: int) -> NDArray:
    """Return ``value`` as :func:`array` does; raise ValueError if an element is not finite."""
    values = array(owner, name, value, *dims)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        where = tuple(wrong[0].tolist())
        raise ValueError(
            f"{owner}: {name} must be finite, got {values[where]} at index {where} "
            f"({len(wrong)} of {values.size} elements are not)"
        )
    return values


def same_length(owner: str, count: int, of: str, **others: Sequence | NDArray | None) -> None:
    """Raise an error unless each of the others that is given has ``count`` entries."""
    for name, other in others.items():
        if other is None:
            continue
        expected = f"{owner}: {name} must have {count} entries, one for each of {of}"
        if isinstance(other, str) or not hasattr(other, "__len__"):
            raise TypeError(f"{expected}, got {describe(other)}")
        if len(other) != count:
            raise ValueError(f"{expected}, got {len(other)}")


def mapping(owner: str, name: str, value: Mapping, of: str) -> None:
    """Raise an error unless ``value`` is a mapping that is not empty."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{owner}: {name} must map {of}, got {describe(value)}")
    if not value:
        raise ValueError(f"{owner}: {name} must not be empty")


def same_shape(owner: str, **both: NDArray) -> None:
    """Raise ValueError unless two arrays have the same shape."""
    (one, a), (other, b) = both.items()
    if a.shape != b.shape:
        raise ValueError(
            f"{owner}: {one} and {other} must have the same shape, got {a.shape} and {b.shape}"
        )
