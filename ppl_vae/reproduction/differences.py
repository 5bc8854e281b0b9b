"""Differences between rows datum by datum, whose errors are smaller than those of either row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppl_vae.evaluation import Estimate
from ppl_vae.io.atomic import clear_leftovers, replaced_file
from ppl_vae.reproduction.records import Record, folder_of
from ppl_vae.reproduction.table import Table

VALUES = "values"
"""The folder, within that of a run, of the values per datum."""


def keep(folder: Path, quantity: str, values: Tensor) -> None:
    """Keep the values of a quantity, one for each test datum, in the folder of a run."""
    (folder / VALUES).mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder / VALUES)
    with replaced_file(folder / VALUES / f"{quantity}.npy") as file:
        np.save(file, values.double().cpu().numpy())


def add_differences(table: Table, records: Sequence[Record], out: Path) -> None:
    """Add to each record how its row differs from those that the table compares it with.

    Of each quantity whose values of both runs, of the same seed and precision, were kept in
    ``out``: the mean over test data, and its standard error.
    """
    against = {row.name: row.against for row in table.rows}
    for record in records:
        mine = _kept(out, record, record.row)
        for other in against.get(record.row, ()):
            its = _kept(out, record, other)
            for quantity in [q for q in mine if q in its]:
                record.add_difference(other, quantity, Estimate.of(mine[quantity] - its[quantity]))


def _kept(out: Path, record: Record, row: str) -> dict[str, Tensor]:
    """Return what was kept of a row, of a record's seed, precision and quantities."""
    folder = folder_of(out, row, record.seed, record.precision) / VALUES
    files = {quantity: folder / f"{quantity}.npy" for quantity in record.quantities}
    return {q: torch.from_numpy(np.load(file)) for q, file in files.items() if file.exists()}
