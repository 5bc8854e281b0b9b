"""Tables in files: CSV and Parquet."""

from __future__ import annotations

import csv
import errno
import io
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ppl_vae.errors import path_of, quoted, reason
from ppl_vae.files import opened
from ppl_vae.io.atomic import replaced_file
from ppl_vae.tables.column import CODED, LARGEST_INTEGER, Column
from ppl_vae.tables.decoding import build, plain_dtype
from ppl_vae.tables.frames import Frame, eager, is_number, library, read

SUFFIXES = (".csv", ".parquet")
MISSING = ("", "NA", "NaN", "nan", "null")
"""The cells of a CSV file that are missing."""
_CODE_OR_LONG = re.compile(r"[-+]?(0\d+|\d{16,})", re.ASCII)


def read_table(
    path: str | os.PathLike[str], kinds: Mapping[Any, str | Column] | None = None
) -> Any:
    """Return the table in a file, as a pandas DataFrame, or a polars one where pandas is absent.

    A CSV file is text in UTF-8: a line of names, then one line for each row, with commas between
    fields. Fields that are empty or read ``NA``, ``NaN``, ``nan`` or ``null`` are missing. A column
    of numbers, or of true and false, comes as such; as text if a number would lose something: a
    leading zero, as in ``00123``, or digits of an integer beyond 2**53.

    Args:
        path: of a file whose name ends in ``.csv`` or ``.parquet``.
        kinds: what is known of columns, as in `Schema.infer`; of a CSV file, those whose categories
            are text come as text, and those of numbers as numbers.

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
    text: set[str] = set()
    with opened(file) as binary:  # refuses what is not a regular file
        if file.suffix.lower() == ".csv":
            text = _as_text(_checked_csv(file, binary), {} if kinds is None else kinds)
    try:
        if file.suffix.lower() == ".csv":
            table = nw.read_csv(str(file), backend=backend, **_csv_options(backend, text))
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
                _write_csv(table, temporary)
            else:
                table.write_parquet(str(temporary))
        except ImportError as error:
            raise _incomplete(owner, error) from error


def _write_csv(table: Any, file: Path) -> None:
    """Write CSV, all text in quotes if some has a carriage return, which pandas leaves bare."""
    native = table.to_native()
    is_pandas = str(table.implementation.value) == "pandas"
    if is_pandas and any(_has_return(series) for series in table.iter_columns()):
        native.to_csv(file, index=False, quoting=csv.QUOTE_NONNUMERIC)
    else:
        table.write_csv(str(file))


def _has_return(series: Any) -> bool:
    cells = series.to_list() if not series.dtype.is_numeric() else ()
    return any(isinstance(cell, str) and "\r" in cell for cell in cells)


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


def _as_text(columns: Mapping[str, bool], kinds: Mapping[Any, str | Column]) -> set[str]:
    """Return the columns to read as text: by what is known of them, or as the file has them."""
    found = {name for name, verbatim in columns.items() if verbatim}
    for name, given in kinds.items():
        kind = given.kind if isinstance(given, Column) else given
        categories = given.categories if isinstance(given, Column) else None
        if categories is not None and any(isinstance(c, str) for c in categories):
            found.add(name)
        elif categories is not None or kind not in CODED:
            found.discard(name)
    return found & columns.keys()


def _is_verbatim(field: str) -> bool:
    """Return whether a field would lose something as a number: leading zeros, or last digits."""
    if _CODE_OR_LONG.fullmatch(field) is None:
        return False
    digits = field.lstrip("+-")
    return digits[0] == "0" or len(digits) > 16 or int(digits) > LARGEST_INTEGER


def _checked_csv(file: Path, binary: BinaryIO) -> dict[str, bool]:
    """Return the columns of a file, and whether each has a field that only text keeps.

    Raises ValueError at what libraries would guess: rows of other lengths, a header's lack.
    """
    name = quoted(file)
    text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
    rows = csv.reader(text, strict=True)
    try:
        header = next(rows, [])
        _check_header(name, header)
        verbatim = [False] * len(header)
        for row in rows:
            blank = not row and len(header) == 1  # as some libraries write a missing cell
            if not row and not blank:
                raise ValueError(f"{name}: line {rows.line_num} is empty; remove it")
            if len(row) != len(header) and not blank:
                raise ValueError(
                    f"{name}: line {rows.line_num} has {len(row)} fields, and the first line names "
                    f"{len(header)} columns; write each row in full, quoted where a comma is meant"
                )
            if not blank:
                verbatim = [was or _is_verbatim(f) for was, f in zip(verbatim, row, strict=True)]
        if rows.line_num < 2:
            raise ValueError(f"{name}: there is a line of names, and no row")
        return dict(zip(header, verbatim, strict=True))
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


def _csv_options(backend: str, text: Iterable[str]) -> dict[str, Any]:
    """Return the options of a library that reads CSV; columns of text are named."""
    if backend == "polars":
        import polars as pl

        return {
            "null_values": list(MISSING),
            "infer_schema_length": None,
            "schema_overrides": dict.fromkeys(text, pl.String),
        }
    return {
        "encoding": "utf-8-sig",
        "keep_default_na": False,
        "na_values": list(MISSING),
        "skip_blank_lines": False,
        "low_memory": False,  # which would guess dtypes of parts of a column
        "dtype": dict.fromkeys(text, str),
    }
