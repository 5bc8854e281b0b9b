"""Known factors of variation of each item of a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ppl_vae.errors import describe, quoted, sequence, sizes
from ppl_vae.labels import INTEGER_DTYPES
from ppl_vae.tensors import as_tensor

if TYPE_CHECKING:  # the types after __post_init__
    _Values = Tensor
    _Names = tuple[str, ...]
    _Sizes = tuple[int, ...]
else:  # the types that __init__ accepts
    _Values = Tensor | np.ndarray
    _Names = Sequence[str]
    _Sizes = Sequence[int] | None


@dataclass(frozen=True, eq=False, repr=False)
class Factors:
    """What varies between the items of a data set, such as shape and position, as integers.

    Args:
        values: of shape ``(N, K)``, the values 0, 1, ... of K factors for each of N items: their
            places in an order, or the numbers of categories. Kept as int64.
        names: of the factors.
        sizes: the number of values of each; one more than the largest if not given.
        categorical: the names of those whose values have no order.

    Raises:
        TypeError: if values are not integers, or names not strings.
        ValueError: if shapes or names do not match, or a value is outside 0, ..., size - 1.

    Example:
        >>> Factors(np.array([[0, 3], [1, 2]]), ("shape", "scale"), categorical=("shape",))
        Factors(2 items; shape: 2 categories, scale: 4)
    """

    values: _Values
    names: _Names
    sizes: _Sizes = None  # type: ignore[assignment]
    categorical: _Names = ()

    if TYPE_CHECKING:

        def __init__(
            self,
            values: Tensor | np.ndarray,
            names: Sequence[str],
            sizes: Sequence[int] | None = None,
            categorical: Sequence[str] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        values: Tensor = self.values
        if isinstance(values, np.ndarray):
            values = as_tensor("values", values)
        expected = "factors must be integers of shape (items, factors)"
        if not isinstance(values, Tensor) or values.dtype not in INTEGER_DTYPES:
            raise TypeError(f"{expected}, got {describe(values)}")
        if values.dim() != 2 or not values.numel():
            raise ValueError(f"{expected}, got {describe(values)}")
        values = values.long()
        names = _names("names", self.names)
        categorical = _names("categorical", self.categorical)
        if len(set(names)) != len(names) or len(names) != values.shape[1]:
            raise ValueError(
                f"names must be those of the {values.shape[1]} factors, each another one, got "
                f"{quoted(names)}"
            )
        if unknown := [name for name in categorical if name not in names]:
            raise ValueError(f"categorical must be among {quoted(names)}, got {quoted(unknown)}")
        low, high = values.amin(0).tolist(), values.amax(0).tolist()
        given: Sequence[int] | None = self.sizes
        found = tuple(h + 1 for h in high) if given is None else sizes("", "sizes", given)
        if len(found) != len(names):
            raise ValueError(f"sizes must be of the {len(names)} factors, got {quoted(found)}")
        for name, size, least, most in zip(names, found, low, high, strict=True):
            if least < 0 or most >= size:
                raise ValueError(
                    f"factor {name!r} must have values from 0 to {size - 1}, got {least} to {most}"
                )
        vars(self).update(values=values, names=names, sizes=found, categorical=categorical)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.values)

    def __repr__(self) -> str:
        of_each = (
            f"{name}: {size}{' categories' if name in self.categorical else ''}"
            for name, size in zip(self.names, self.sizes, strict=True)
        )
        return f"Factors({len(self)} items; {', '.join(of_each)})"

    def with_values(self, change: Callable[[Tensor], Tensor]) -> Factors:
        """Return these factors of other items, or on another device."""
        return replace(self, values=change(self.values))

    def only(self, names: Sequence[str]) -> Factors:
        """Return some of the factors, in the order of ``names``."""
        chosen = _names("names", names)
        if not chosen or any(name not in self.names for name in chosen):
            raise ValueError(f"names must be among {quoted(self.names)}, got {quoted(chosen)}")
        at = [self.names.index(name) for name in chosen]
        return Factors(
            self.values[:, at],
            chosen,
            sizes=[self.sizes[k] for k in at],
            categorical=[name for name in self.categorical if name in chosen],
        )


def _names(argument: str, given: Sequence[str]) -> tuple[str, ...]:
    for name in sequence("", argument, given, "names of factors"):
        if not isinstance(name, str):
            raise TypeError(f"{argument} must be names of factors, got {describe(name)}")
    return tuple(given)
