"""One column of a table: its kind, its categories or bounds, and its dtype."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

from ppl_vae.errors import describe, number, quoted

KINDS = ("real", "positive", "nonnegative", "bounded", "count", "binary", "categorical", "ordinal")
"""What a column can be: numbers first, then what has categories."""
CODED = ("binary", "categorical", "ordinal")
"""The kinds whose cells are encoded as the number of their category, 0, 1, ..."""
LARGEST_INTEGER = 2**53
"""Up to here float64 holds every integer."""

Category = str | bool | int | float


@dataclass(frozen=True)
class Column:
    """A column of a :class:`Schema`; in ``kinds=`` of `Schema.infer`, what to make of one.

    Args:
        name: as in the table.
        kind: one of `KINDS`.
        categories: of a binary, categorical or ordinal column, distinct strings, numbers or bools;
            the code of each is its place, and levels stand in ascending order. None, for
            `Schema.infer`, takes those in the table.
        low: of a bounded column, whose values lie between the two, exclusive.
        high: likewise.
        dtype: of the table's library, as text, to decode into; filled in by `Schema.infer`.
        minimum: the smallest value observed, of a column of numbers; for information.
        maximum: the largest, likewise.
        missing: the share of cells that were missing; for information.

    Raises:
        TypeError: for an argument of another type.
        ValueError: for a kind that is not known, or categories or bounds that do not fit it.
    """

    name: str | int
    kind: str
    categories: Sequence[Category] | None = None
    low: int | float | None = None
    high: int | float | None = None
    _: KW_ONLY
    dtype: str | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    missing: int | float = 0.0

    def __post_init__(self) -> None:
        vars(self)["name"] = column_name(self.name)
        owner = f"column {quoted(self.name)}"
        if self.kind not in KINDS:
            raise ValueError(f"{owner}: kind must be one of {KINDS}, got {describe(self.kind)}")
        if self.categories is not None:
            vars(self)["categories"] = _categories(owner, self.kind, self.categories)
        self._check_bounds(owner)
        if self.dtype is not None and not isinstance(self.dtype, str):
            raise TypeError(f"{owner}: dtype must be a string, got {describe(self.dtype)}")
        for name in ("minimum", "maximum"):
            if (value := getattr(self, name)) is not None:
                vars(self)[name] = float(number(owner, name, value))
        vars(self)["missing"] = float(number(owner, "missing", self.missing, least=0, most=1))

    def _check_bounds(self, owner: str) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            if self.kind == "bounded" and value is None:
                raise ValueError(
                    f"{owner}: kind 'bounded' needs low and high, got {name}=None; "
                    f"give Column({quoted(self.name)}, 'bounded', low=0, high=100), say"
                )
            if self.kind != "bounded" and value is not None:
                raise ValueError(f"{owner}: {name} is for kind 'bounded', got {quoted(self.kind)}")
            if value is not None:
                vars(self)[name] = float(number(owner, name, value))
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"{owner}: low must be below high, got {self.low:g} and {self.high:g}")

    @property
    def coded(self) -> bool:
        """True if cells are encoded as the number of their category."""
        return self.kind in CODED

    @property
    def contents(self) -> str:
        """What the column holds, in words: its categories, or its range."""
        if self.categories is not None:
            shown = ", ".join(quoted(value, 24) for value in self.categories[:4])
            more = len(self.categories) - 4
            return f"{shown}, ... ({len(self.categories)})" if more > 0 else shown
        observed = ""
        if self.minimum is not None and self.maximum is not None:
            observed = f"{self.minimum:.6g} to {self.maximum:.6g}"
        if self.low is None:
            return observed
        return f"{observed} within ({self.low:g}, {self.high:g})".strip()

    def to_dict(self) -> dict[str, Any]:
        """Return the column as plain data for JSON; what is None is left out."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.categories is not None:
            found["categories"] = list(self.categories)
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Column:
        """Return the column that :meth:`to_dict` described.

        Raises ValueError or TypeError, naming the entry, for anything else.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"a column must be a mapping, got {describe(data)}")
        known = [field.name for field in fields(cls)]
        for name in data:
            if name not in known:
                raise ValueError(f"a column has no entry {quoted(name)}; it has {', '.join(known)}")
        for name in ("name", "kind"):
            if name not in data:
                raise ValueError(f"a column must have the entry {name!r}, got {quoted(dict(data))}")
        return cls(**data)


def column_name(name: object) -> str | int:
    """Return a column's name, a string that is not empty or an integer.

    Raises TypeError or ValueError for anything else.
    """
    if isinstance(name, str):
        if not name:
            raise ValueError("names of columns must not be empty, got ''")
        return str(name)
    integer = getattr(name, "item", lambda: name)()  # of NumPy
    if isinstance(integer, int) and not isinstance(integer, bool):
        return integer
    raise TypeError(f"names of columns must be strings or integers, got {describe(name)}")


def category(value: object) -> Category:
    """Return a category as a Python object; raise TypeError for what JSON has no word for."""
    value = value.item() if type(value).__module__ == "numpy" else value  # type: ignore[attr-defined]
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise TypeError(
        f"categories must be strings, finite numbers or bools, got {describe(value)}; "
        f"rename them, in pandas by column.cat.rename_categories(str)"
    )


def _categories(owner: str, kind: str, given: object) -> tuple[Category, ...]:
    if kind not in CODED:
        raise ValueError(f"{owner}: categories are for kinds {CODED}, got {quoted(kind)}")
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{owner}: categories must be a sequence, got {describe(given)}")
    try:
        found = tuple(category(value) for value in given)
    except TypeError as error:
        raise TypeError(f"{owner}: {error}") from None
    if len(set(found)) < len(found):  # 1, 1.0 and True are equal
        raise ValueError(f"{owner}: categories must be distinct, got {quoted(found)}")
    least = 2 if kind == "binary" else 1
    if len(found) < least or (kind == "binary" and len(found) > 2):
        expected = "two" if kind == "binary" else "one or more"
        raise ValueError(f"{owner}: kind {kind!r} needs {expected} categories, got {quoted(found)}")
    return found
