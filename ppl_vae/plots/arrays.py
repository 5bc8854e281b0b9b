"""What the pictures ask of their arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_vae.errors import describe, reason


def array(owner: str, name: str, value: ArrayLike, *dims: int) -> NDArray:
    """Return ``value`` as float64, with one of the numbers of dimensions ``dims`` if given.

    Raises:
        TypeError: if it is no array of numbers on the CPU.
        ValueError: if it is empty, or has another number of dimensions.
    """
    try:
        given = np.asarray(value)
        if value is None or given.dtype.kind == "c":
            raise TypeError("no real numbers")
        values = given.astype(float)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{owner}: {name} must be an array of numbers, got {describe(value)}: {reason(error)}; "
            f"give tensors as {name}.detach().cpu()"
        ) from error
    if dims and values.ndim not in dims:
        expected = " or ".join(str(d) for d in dims)
        raise ValueError(
            f"{owner}: {name} must have {expected} dimension{'s' if expected != '1' else ''}, "
            f"got shape {values.shape}"
        )
    if not values.size:
        raise ValueError(
            f"{owner}: {name} is empty, of shape {values.shape}; there is nothing to draw"
        )
    return values


def finite(owner: str, name: str, value: ArrayLike, *dims: int) -> NDArray:
    """Return ``value`` as :func:`array` does.

    Raises:
        ValueError: if a value is not finite, too.
    """
    values = array(owner, name, value, *dims)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        where = tuple(wrong[0].tolist())
        raise ValueError(
            f"{owner}: {name} must be finite, got {values[where]} at index {where} and "
            f"{len(wrong)} such value{'s' if len(wrong) > 1 else ''} of {values.size}; remove them"
        )
    return values


def same_length(owner: str, count: int, of: str, **others: Sequence | NDArray | None) -> None:
    """Raise ValueError unless each of the others has ``count`` entries."""
    for name, other in others.items():
        if other is None:
            continue
        expected = f"{owner}: {name} must have {count} entries, one for each of {of}"
        if isinstance(other, str) or not hasattr(other, "__len__"):
            raise TypeError(f"{expected}, got {describe(other)}")
        if len(other) != count:
            raise ValueError(f"{expected}, got {len(other)}")


def names_of(count: int, symbol: str = "z") -> list[str]:
    """Return z_1, z_2, ... as they are typeset."""
    return [f"${symbol}_{{{i + 1}}}$" for i in range(count)]


def some(count: int, most: int = 7) -> NDArray:
    """Return some of the indices 0, ..., count - 1: the first, the last, and what lies between.

    At equal steps if 4 or more can be, and symmetric about the middle if not.
    """
    if count <= most:
        return np.arange(count)
    equal = [k for k in range(most, 3, -1) if (count - 1) % (k - 1) == 0]
    # Of the same parity as count, so that both have a middle or neither has.
    shown = equal[0] if equal else most - (most - count) % 2
    below = np.linspace(0, count - 1, shown)[: (shown + 1) // 2].round().astype(int)
    return np.unique([*below, *(count - 1 - below)])


def literal(text: str) -> str:
    """Return somebody's text as matplotlib shows it: in short, no formula and never hidden."""
    text = reason(text, 40).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def number(value: float, digits: int = 1) -> str:
    """Write a number with a proper minus and no minus before zero."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "\N{MINUS SIGN}")
