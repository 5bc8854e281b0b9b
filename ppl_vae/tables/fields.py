"""The fields of a CSV file, which stay as they are where a table is filled in."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ppl_vae.files import opened
from ppl_vae.tables.frames import Cells, Frame, eager, library, read
from ppl_vae.tables.schema import Schema


def fields_of(file: str | os.PathLike[str]) -> dict[str | int, list[str]]:
    """Return the fields of a CSV file, which `read_table` has read, by column."""
    with opened(file) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        header, *rows = csv.reader(text, strict=True)
        text.detach()  # the file is closed by who opened it
    full = [row or [""] for row in rows]  # an empty line is a missing cell of a single column
    columns = map(list, zip(*full, strict=True))
    return dict(zip(header, columns, strict=True))


def with_fields(
    filled: Frame, frame: Frame, fields: Mapping[str | int, Sequence[str]], schema: Schema
) -> Any:
    """Return a table that was filled in as text, in which observed cells read as in their file.

    As numbers they would be written otherwise: 0.10 as 0.1, and -2 beside a missing cell as -2.0.
    A category that was filled in is spelled as the file spells it, which may be 1 or true, and a
    count ends in .0 if all do.

    Args:
        filled: with the rows and columns of ``frame``.
        frame: what `read_table` made of the file.
        fields: of the file, from `fields_of`.
        schema: of the columns.
    """
    owner = "with_fields"
    nw, came = library("narwhals", owner), read(frame, owner).cells
    table, _ = eager(filled, owner)
    columns = []
    for name, cells in came.items():
        guesses, column = table[name].to_list(), fields[name]
        spelled = _spellings(cells, column)
        if schema[name].coded:
            guesses = [_category(guess, spelled) for guess in guesses]
        elif schema[name].kind == "count":
            as_floats = spelled and all(field.endswith(".0") for field in spelled.values())
            guesses = [float(guess) if as_floats else int(guess) for guess in guesses]
        both = zip(guesses, column, cells.missing, strict=True)
        words = [str(guess) if missing else field for guess, field, missing in both]
        columns.append(nw.new_series(name, words, nw.String, backend=table.implementation))
    return table.with_columns(*columns).to_native()


def _spellings(cells: Cells, fields: Sequence[str]) -> dict[object, str]:
    """Return how a file first spells each value that a column has."""
    spelled: dict[object, str] = {}
    for value, field, missing in zip(cells.values.tolist(), fields, cells.missing, strict=True):
        if not missing:
            spelled.setdefault(value, field)
    return spelled


def _category(value: object, spelled: Mapping[object, str]) -> object:
    """Return a category as the file spells it; bools that it lacks have the case of the others."""
    if value in spelled:
        return spelled[value]
    text = str(value)
    if isinstance(value, bool):
        other = next(iter(spelled.values()), text)
        return text.lower() if other.islower() else text.upper() if other.isupper() else text
    return int(value) if isinstance(value, float) and value.is_integer() else value
