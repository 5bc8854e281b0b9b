"""What the columns of a table are, found from their dtypes and cells."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ppl_vae.errors import quoted
from ppl_vae.tables.column import CODED, LARGEST_INTEGER, Category, Column, category
from ppl_vae.tables.encoding import codes_of, numbers_of, refuse_infinite
from ppl_vae.tables.frames import Cells, Table, is_number

MOST_CATEGORIES = 1000
"""Limit on the categories of a column whose kind is not given."""
MOST_SINGLES = 50
"""Up to here, text may differ in every row; beyond, it names the rows."""
FEW_NUMBERS, NOT_NUMBERS = 20, 0.1
"""With more distinct texts, of which at most this share are no numbers, a column is numbers."""
NARROW = 0.5
"""Counts whose variance is a smaller share of their mean are too narrow to be drawn as counts."""
MARKS = ("", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "missing", "-", "--", ".", "?")
"""How missing cells are marked; where all other text is numbers, these are no categories."""
_NOTATION = re.compile(r"[-+]?\d+([., '\u2019]\d{3})*([.,]\d+)?\s?%?")
"""Numbers with a decimal comma, with marks between thousands, or in per cent."""
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?|\d{1,2}/\d{1,2}/\d{2,4}|\d{1,2}\.\d{1,2}\.\d{4}")


def infer_column(cells: Cells, given: Column | None, table: Table, owner: str) -> Column:
    """Return the column that cells come from, of the kind that is given, if one is."""
    name = quoted(cells.name)
    if cells.missing.all():
        raise ValueError(f"{owner}: column {name} has no observed cell; drop it")
    refuse_infinite(cells, table, owner)
    column = Column(cells.name, _kind(cells, table, owner)) if given is None else given
    if column.coded and column.categories is None:
        column = replace(column, categories=_categories(cells, column.kind, owner))
    column = replace(column, dtype=cells.dtype, missing=float(cells.missing.mean()))
    if column.coded:
        codes_of(column, cells, table, owner)
        return column
    if cells.declared is not None or cells.values.dtype.kind == "b":
        raise TypeError(
            f"{owner}: column {name} has the dtype {cells.dtype}, and kind {column.kind!r} needs "
            f"numbers; cast it, or give it one of {CODED}"
        )
    values = numbers_of(column, cells, table, owner)
    values = values[~cells.missing]
    if given is None and column.kind == "count":
        _warn_if_narrow(values, name, owner)
    low, high = float(values.min()), float(values.max())
    if low == high and column.kind != "count":
        raise ValueError(
            f"{owner}: column {name} is {low:g} in every row, and a density of kind "
            f"{column.kind!r} would grow without bound; drop it"
        )
    return replace(column, minimum=low, maximum=high)


def _warn_if_narrow(values: np.ndarray, name: str, owner: str) -> None:
    """Warn of numbers that vary less than any mixture of Poissons: its variance is at least μ."""
    # By chance, of n counts, one sample in 1,000 has a smaller share (Wilson and Hilferty 1931).
    error = 2 / (9 * max(len(values) - 1, 1))
    by_chance = (1 - error - 3.1 * error**0.5) ** 3
    if values.var() < min(NARROW, by_chance) * values.mean():
        warnings.warn(
            f"{owner}: column {name} is taken for counts, whose standard deviation is at least the "
            f"root of their mean, {values.mean() ** 0.5:.3g}, and here it is {values.std():.3g}: "
            f"draws would be too wide; give kinds={{{name}: 'real'}}",
            stacklevel=4,
        )


def _kind(cells: Cells, table: Table, owner: str) -> str:
    """Return the kind of a column by the rules of `Schema.infer`."""
    name = quoted(cells.name)
    if cells.declared is not None:
        if len(cells.declared) == 1:
            raise ValueError(
                f"{owner}: column {name} has one category, {quoted(cells.declared[0], 40)}: "
                f"there is nothing to model; drop it, or give kinds={{{name}: 'categorical'}}"
            )
        if len(cells.declared) > 2:
            _refuse_not_categories(cells, len(cells.declared), table, owner)
        kind = "ordinal" if cells.ordered else "categorical"
        return "binary" if len(cells.declared) == 2 else kind
    if cells.values.dtype.kind == "b":
        return "binary"
    observed = cells.observed
    text = observed.dtype.kind == "O"
    distinct = len(set(observed.tolist()))
    if distinct == 1:
        raise ValueError(
            f"{owner}: column {name} is {quoted(category(observed[0]), 40)} in every row: "
            f"there is nothing to model; drop it, or give kinds={{{name}: 'categorical'}}"
        )
    if distinct == 2:
        return "binary"
    if text:
        _refuse_not_categories(cells, distinct, table, owner)
        return "categorical"
    if _whole(observed):
        return "count" if observed.min() >= 0 else "real"
    if observed.min() < 0:
        return "real"
    return "positive" if observed.min() > 0 else "nonnegative"


def _whole(values: np.ndarray) -> bool:
    """Return whether numbers are all integers that float64 holds."""
    if values.dtype.kind in "iub":
        return True
    return bool((values == np.rint(values)).all() and (abs(values) <= LARGEST_INTEGER).all())


def _refuse_not_categories(cells: Cells, distinct: int, table: Table, owner: str) -> None:
    """Raise ValueError for text that names the rows, for dates, and for numbers beside text."""
    name, count = quoted(cells.name), len(cells.observed)
    fix = f"drop it, cast it to numbers, or give kinds={{{name}: 'categorical'}}"
    other: list[str] = []
    if cells.declared is None:
        texts = dict.fromkeys(cells.observed)
        other = [text for text in texts if _is_mark(text) or not is_number(text)]
        if other and len(other) < distinct and all(map(_is_mark, other)):
            _refuse_beside_numbers(cells, other[0], table, owner)
    if distinct > MOST_CATEGORIES:
        raise ValueError(
            f"{owner}: column {name} has {distinct} categories, more than {MOST_CATEGORIES}: is it "
            f"an identifier? {fix}"
        )
    if cells.declared is not None:
        return
    if all(_DATE.fullmatch(text) for text in set(cells.observed)):
        raise ValueError(
            f"{owner}: column {name} has dates, such as {quoted(cells.observed[0], 40)}; give "
            f"numbers, such as the days since a date, drop it, or give "
            f"kinds={{{name}: 'categorical'}}"
        )
    if distinct == count > MOST_SINGLES:
        raise ValueError(
            f"{owner}: column {name} has a different text in each of {count} rows: is it "
            f"an identifier? {fix}"
        )
    words = [text for text in other if not _NOTATION.fullmatch(text)]
    if distinct > FEW_NUMBERS and other and len(words) <= distinct * NOT_NUMBERS:
        _refuse_beside_numbers(cells, (words or other)[0], table, owner)


def _refuse_beside_numbers(cells: Cells, text: str, table: Table, owner: str) -> None:
    """Raise ValueError for text in a column whose other text is numbers."""
    what, fix = " among numbers as text", "correct it or mark it as missing and cast"
    if _NOTATION.fullmatch(text):
        what, fix = ", a number that is not written as 1234.5", "rewrite them, and cast"
    where = table.where(cells.row_of(cells.observed == text), cells.name)
    raise ValueError(
        f"{owner}: {where} is {quoted(text, 40)}{what}; {fix} the column to numbers, or give "
        f"kinds={{{quoted(cells.name)}: 'categorical'}}"
    )


def _is_mark(text: str) -> bool:
    return text.strip().lower() in MARKS


def _categories(cells: Cells, kind: str, owner: str) -> tuple[Category, ...]:
    """Return the categories in a column, in the order of its dtype, or in ascending order."""
    name = quoted(cells.name)
    if cells.declared is not None:
        if kind == "ordinal" and not cells.ordered and cells.dtype != "Enum":
            raise ValueError(_no_order(name, cells.declared, owner))
        found = [_category(value, name, owner) for value in cells.declared]
    elif cells.values.dtype.kind == "b":
        found = [False, True]
    else:
        values = cells.observed
        if kind == "ordinal" and values.dtype.kind == "O":
            raise ValueError(_no_order(name, tuple(dict.fromkeys(values)), owner))
        if values.dtype.kind == "f" and _whole(values):  # integers beside missing cells
            values = values.astype(np.int64)
        found = sorted(_category(value, name, owner) for value in set(values.tolist()))
    if kind == "binary":
        found = _two(found, name, owner)
    return tuple(found)


def _two(found: list[Category], name: str, owner: str) -> list[Category]:
    """Return the two categories of a binary column; 0 or 1 may not have been seen."""
    if len(found) < 2 and {0, 1}.issuperset(found):
        return [0, 1]
    if len(found) != 2:
        raise ValueError(
            f"{owner}: column {name} has {len(found)} distinct values, {quoted(found, 80)}, and "
            f"kind 'binary' needs two; give Column({name}, 'binary', categories=...)"
        )
    return found


def _no_order(name: str, found: Sequence[object], owner: str) -> str:
    return (
        f"{owner}: column {name} is text without an order, and kind 'ordinal' needs one; give "
        f"Column({name}, 'ordinal', categories=...) with these in order: {quoted(found, 120)}"
    )


def _category(value: object, name: str, owner: str) -> Category:
    try:
        return category(value)
    except TypeError as error:
        raise TypeError(f"{owner}: column {name}: {error}") from None
