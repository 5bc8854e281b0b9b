"""Cells of a few rows, with what was imputed for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppl_vae.report.table.held_out import HeldOut
from ppl_vae.tables import Column, Schema

LEVEL = 0.9
MOST_PER_ROW = 8


@dataclass(frozen=True)
class Example:
    """A cell that was held out, in the words of its table.

    Args:
        row: of the table given, from 0.
        column: its name.
        truth: what it holds.
        guess: what is imputed.
        prediction: the 90 % interval, or the most probable categories.
    """

    row: int
    column: str
    truth: str
    guess: str
    prediction: str


def examples(
    cells: HeldOut, schema: Schema, rows: NDArray, number: int, rng: np.random.Generator
) -> list[Example]:
    """Return the cells of some rows chosen at random, at most eight of each.

    ``rows`` are the places in the table given of those that the cells are of.
    """
    hidden = np.unique(cells.row)
    chosen = rng.choice(hidden, min(number, len(hidden)), replace=False)
    columns = list(schema)
    found = []
    for row in np.sort(chosen):
        for at in np.flatnonzero(cells.row == row)[:MOST_PER_ROW].tolist():
            column = columns[cells.column[at]]
            found.append(
                Example(
                    int(rows[row]),
                    str(column.name),
                    cell_text(column, cells.truth[at]),
                    cell_text(column, cells.guess[at]),
                    _prediction(column, cells, at),
                )
            )
    return found


def cell_text(column: Column, value: float) -> str:
    """Return an encoded value in the words of its table."""
    if column.coded:
        assert column.categories is not None
        return str(column.categories[int(value)])
    if column.kind == "count":
        return f"{value:.0f}" if abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def _prediction(column: Column, cells: HeldOut, at: int) -> str:
    draws = cells.draws[:, at]
    if not column.coded:
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return f"{cell_text(column, low)} to {cell_text(column, high)}"
    assert column.categories is not None
    share = np.bincount(draws.astype(int), minlength=len(column.categories)) / len(draws)
    likely = [k for k in np.argsort(-share, kind="stable")[:3] if share[k] > 0]
    return ", ".join(f"{column.categories[k]} {100 * share[k]:.0f} %" for k in likely)
