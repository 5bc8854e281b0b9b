"""Cells of a column as numbers: codes of categories, and numbers that fit the kind."""

from __future__ import annotations

import numpy as np

from ppl_vae.errors import describe, quoted
from ppl_vae.tables.column import LARGEST_INTEGER, Column
from ppl_vae.tables.frames import Cells, Table


def encode_column(column: Column, cells: Cells, table: Table, owner: str) -> np.ndarray:
    """Return a column as float64, NaN where a cell is missing; raise for a cell that is wrong."""
    encode = codes_of if column.coded else numbers_of
    return encode(column, cells, table, owner)


def codes_of(column: Column, cells: Cells, table: Table, owner: str) -> np.ndarray:
    """Return the place of each cell's category."""
    known = column.categories or ()
    code_of = {value: code for code, value in enumerate(known)}
    observed = cells.observed.tolist()
    codes = np.fromiter((code_of.get(value, -1) for value in observed), float, len(observed))
    if (codes < 0).any():
        row = cells.row_of(codes < 0)
        raise ValueError(
            f"{owner}: {table.where(row, column.name)} is {quoted(_plain(cells.values[row]), 60)}, "
            f"not among its categories {quoted(tuple(known), 120)}; "
            f"correct it, or mark it as missing"
        )
    return _spread(codes, cells)


def numbers_of(column: Column, cells: Cells, table: Table, owner: str) -> np.ndarray:
    """Return the cells as they are, finite and within the column's kind."""
    _refuse_text(column, cells, table, owner)
    refuse_infinite(cells, table, owner)
    observed = cells.observed.astype(float)
    for wrong, needed in _limits(column, cells.observed, observed):
        if wrong.any():
            row = cells.row_of(wrong)
            raise ValueError(
                f"{owner}: {table.where(row, column.name)} is {quoted(_plain(cells.values[row]))}, "
                f"and kind {column.kind!r} needs {needed}; correct it, or choose another kind"
            )
    return _spread(observed, cells)


def _limits(column: Column, came: np.ndarray, values: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """Return where values break a rule of the column's kind, and the rule."""
    beyond = np.zeros(len(came), bool)
    if came.dtype.kind in "iu":
        beyond = (came > LARGEST_INTEGER) | (values < -LARGEST_INTEGER)
    elif column.kind == "count":
        beyond = abs(values) >= LARGEST_INTEGER  # 2**53 may have been 2**53 + 1
    rules = [(beyond, "integers within ±2**53, which float64 holds exactly")]
    if column.kind == "positive":
        rules.append((values <= 0, "numbers above zero"))
    elif column.kind == "nonnegative":
        rules.append((values < 0, "numbers of zero or more"))
    elif column.kind == "count":
        rules.append((values < 0, "numbers of zero or more"))
        rules.append((values != np.rint(values), "whole numbers"))
    elif column.low is not None and column.high is not None:
        inside = f"numbers between {column.low:g} and {column.high:g}, exclusive"
        rules.append(((values <= column.low) | (values >= column.high), inside))
    return rules


def _refuse_text(column: Column, cells: Cells, table: Table, owner: str) -> None:
    if cells.values.dtype.kind not in "Ob" or cells.missing.all():
        return
    row = cells.row_of(np.ones(len(cells.observed), bool))
    raise TypeError(
        f"{owner}: {table.where(row, column.name)} is {describe(cells.values[row])}, and kind "
        f"{column.kind!r} needs numbers; cast the column"
    )


def refuse_infinite(cells: Cells, table: Table, owner: str) -> None:
    """Raise ValueError at an infinite cell."""
    infinite = ~np.isfinite(cells.observed) if cells.values.dtype.kind == "f" else None
    if infinite is not None and infinite.any():
        row = cells.row_of(infinite)
        value = cells.values[row]
        raise ValueError(
            f"{owner}: {table.where(row, cells.name)} is {value}; correct it, or mark it as missing"
        )


def _spread(observed: np.ndarray, cells: Cells) -> np.ndarray:
    """Return values of observed cells in their rows, NaN in the others."""
    values = np.full(len(cells.missing), np.nan)
    values[~cells.missing] = observed
    return values


def _plain(value: object) -> object:
    """Return a number of NumPy as Python's."""
    return value.item() if isinstance(value, np.generic) else value
