"""Tables in files: CSV and Parquet."""

from __future__ import annotations

import csv
import errno
import io
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ppl_vae.errors import path_of, quoted, reason
from ppl_vae.files import opened
from ppl_vae.io.atomic import replaced_file
from ppl_vae.tables.decoding import build, plain_dtype
from ppl_vae.tables.frames import Frame, eager, is_number, library, read

SUFFIXES = (".csv", ".parquet")
MISSING = ("", "NA", "NaN", "nan", "null")
"""The cells of a CSV file that are missing."""


def read_table(path: str | os.PathLike[str]) -> Any:
    """Return the table in a file, as a pandas DataFrame, or a polars one where pandas is absent.

    A CSV file is text in UTF-8: a line of names, then one line for each row, with commas between
    fields. Fields that are empty or read ``NA``, ``NaN``, ``nan`` or ``null`` are missing.

    Args:
        path: of a file whose name ends in ``.csv`` or ``.parquet``.

    Raises:
        TypeError: if ``path`` is not a path.
        FileNotFoundError: if there is no file.
        ValueError: for another suffix, and a file that is damaged or empty; for CSV also without a
            line of names, with a name twice or none, or with a row of more or fewer fields. Lines
            are counted from 1.
        ImportError: without narwhals and pandas or polars.
    """
    owner = "read_table"
    file, nw, backend = _path(owner, path), library("narwhals", owner), _backend(owner)
    with opened(file) as binary:  # refuses what is not a regular file
        if file.suffix.lower() == ".csv":
            _check_csv(file, binary)
    try:
        if file.suffix.lower() == ".csv":
            table = nw.read_csv(str(file), backend=backend, **_CSV_OPTIONS[backend])
        else:
            table = nw.read_parquet(str(file), backend=backend)
    except ImportError as error:
        raise _incomplete(owner, error) from error
    except Exception as error:  # each library has its own
        raise ValueError(f"{quoted(file)} cannot be read: {reason(error)}") from error
    return table.to_native()


def write_table(frame: Frame, path: str | os.PathLike[str]) -> None:
    """Write a table to a file, whole or not at all; a file that is there is replaced.

    In CSV, missing cells are empty, the index of pandas is left out, and dtypes are lost: text that
    is empty or reads ``NA`` is missing when it is read again. Parquet keeps all of them.

    Args:
        frame: a pandas or polars DataFrame, a pyarrow Table, or a NumPy array, structured or of two
            dimensions, whose columns are named ``"x0"``, ``"x1"``, ...
        path: of a file whose name ends in ``.csv`` or ``.parquet``; its folder must exist.

    Raises:
        TypeError: for another table or path.
        ValueError: for another suffix, and a table that has a name twice.
        OSError: if the file cannot be written.
        ImportError: without narwhals and the libraries that write the file.
    """
    owner = "write_table"
    file = _path(owner, path)
    frame = _framed(frame, owner) if isinstance(frame, np.ndarray) else frame
    table, _ = eager(frame, owner)
    if not file.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no folder of that name", str(file.parent))
    with replaced_file(file) as temporary:
        try:
            if file.suffix.lower() == ".csv":
                table.write_csv(str(temporary))
            else:
                table.write_parquet(str(temporary))
        except ImportError as error:
            raise _incomplete(owner, error) from error


def _path(owner: str, path: object) -> Path:
    file = path_of(owner, "path", path)
    if file.suffix.lower() not in SUFFIXES:
        expected = " or ".join(SUFFIXES)
        raise ValueError(f"{owner}: path must end in {expected}, got {quoted(file.name)}")
    return file


def _backend(owner: str) -> str:
    """Return the library that reads and writes files: pandas, or polars where it is absent."""
    if find_spec("pandas") is None and find_spec("polars") is not None:
        return "polars"
    library("pandas", owner)
    return "pandas"


def _incomplete(owner: str, error: ImportError) -> ImportError:
    return ImportError(f"{owner}: {reason(error)}; pip install 'ppl-vae[tables]'")


def _framed(array: np.ndarray, owner: str) -> Any:
    """Return an array as a frame."""
    backend = _backend(owner)
    columns = read(array, owner).cells.values()
    cells = [replace(each, dtype=plain_dtype(backend, each.values)) for each in columns]
    return build(backend, cells, None, owner)


def _check_csv(file: Path, binary: BinaryIO) -> None:
    """Raise ValueError at what libraries would guess: rows of other lengths, a header's lack."""
    name = quoted(file)
    text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
    rows = csv.reader(text, strict=True)
    try:
        header = next(rows, [])
        _check_header(name, header)
        for row in rows:
            blank = not row and len(header) == 1  # as some libraries write a missing cell
            if len(row) != len(header) and not blank:
                raise ValueError(
                    f"{name}: line {rows.line_num} has {len(row)} fields, and the first line names "
                    f"{len(header)} columns; write each row in full, quoted where a comma is meant"
                )
        if rows.line_num < 2:
            raise ValueError(f"{name}: there is a line of names, and no row")
    except csv.Error as error:
        raise ValueError(f"{name}: line {rows.line_num}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        line = _first_undecodable(file)
        raise ValueError(f"{name}: line {line} is not UTF-8; save the file as UTF-8") from error
    finally:
        text.detach()  # the file is closed by who opened it


def _check_header(name: str, header: list[str]) -> None:
    if not any(header):
        raise ValueError(f"{name} is empty: it must begin with a line of names")
    if len(header) == 1 and (other := next((mark for mark in ";\t|" if mark in header[0]), None)):
        raise ValueError(
            f"{name}: fields must stand between commas, got {quoted(other)}; convert it"
        )
    if all(field in MISSING or is_number(field) for field in header):
        raise ValueError(
            f"{name}: the first line must have names, got the numbers {quoted(header, 60)}; add a "
            f"line of names"
        )
    for place, field in enumerate(header, start=1):
        if not field:
            raise ValueError(
                f"{name}: field {place} of the first line must be a name, got ''; name it (of an "
                f"index of pandas: write the file with index=False)"
            )
        if field in header[: place - 1]:
            raise ValueError(
                f"{name}: the first line has the name {quoted(field)} twice; rename one"
            )


def _first_undecodable(file: Path) -> int:
    with opened(file) as binary:
        return next(n for n, line in enumerate(binary, start=1) if not _is_utf8(line))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


_CSV_OPTIONS: dict[str, dict[str, Any]] = {
    "pandas": {
        "encoding": "utf-8-sig",
        "keep_default_na": False,
        "na_values": list(MISSING),
        "skip_blank_lines": False,
        "low_memory": False,  # which would guess dtypes of parts of a column
    },
    "polars": {"null_values": list(MISSING), "infer_schema_length": None},
}
