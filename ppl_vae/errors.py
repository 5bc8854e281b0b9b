"""How error messages describe what came."""

from __future__ import annotations

from torch import Tensor


def describe(value: object) -> str:
    """Describe a value in a few words, a tensor by its shape and dtype."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    return f"{value!r} ({type(value).__name__})"


def positive_int(owner: str, name: str, value: object, fix: str = "") -> int:
    """Return ``value`` if it is an integer of 1 or more; raise an error that names it otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an integer of 1 or more, got {describe(value)}")
    if value < 1:
        hint = f"; {fix}" if fix else ""
        raise ValueError(f"{owner}: {name} must be 1 or more, got {value}{hint}")
    return value
