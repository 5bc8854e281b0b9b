"""Tables of any library, read column by column into NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from numbers import Integral, Real
from typing import Any

import numpy as np

from ppl_vae.errors import describe, quoted, reason
from ppl_vae.tables.column import column_name

Frame = Any
"""A pandas or polars DataFrame, a pyarrow Table, a NumPy array, or the path of a file."""
LIBRARIES = ("pandas", "polars", "pyarrow", "numpy", "array")
"""Where a table can come from; "numpy" are structured arrays, "array" those of two dimensions."""

_ACCEPTED = (
    "a pandas or polars DataFrame, a pyarrow Table, a NumPy array (structured, or of two "
    "dimensions), or the path of a .csv or .parquet file"
)
_AS_NUMBERS = "give numbers, such as the days since a date, or drop it"
_OTHER = "cast it to numbers, bools or text, or drop it"
_NO_VALUES = ("NAType", "NaTType")  # of pandas, which need not be installed


@dataclass(frozen=True, eq=False)
class Cells:
    """One column as it came.

    ``values`` are numbers, bools, or Python objects where ``declared`` categories or text came;
    what stands in a missing cell means nothing. ``declared`` are the categories that the dtype
    names, and ``ordered`` says that it orders them.
    """

    name: str | int
    dtype: str
    values: np.ndarray
    missing: np.ndarray
    declared: Sequence[object] | None = None
    ordered: bool = False

    @property
    def observed(self) -> np.ndarray:
        """The values of the cells that are not missing."""
        return self.values[~self.missing]

    def row_of(self, wrong: np.ndarray) -> int:
        """Return the first row that is wrong, given as a bool for each observed cell."""
        return int(np.flatnonzero(~self.missing)[np.flatnonzero(wrong)[0]])


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of a table by name, its library, and the index of a pandas DataFrame."""

    library: str
    cells: dict[str | int, Cells]
    rows: int
    index: Any = None

    def where(self, row: int, name: str | int) -> str:
        """Name a cell: its row from 0, with its label in an index of pandas, and its column."""
        label = "" if self.index is None else self.index[row]
        label = label.item() if isinstance(label, np.generic) else label
        plain = self.index is None or (isinstance(label, Integral) and label == row)
        return f"row {row}{'' if plain else f' (index {quoted(label, 40)})'}, column {quoted(name)}"


def library(name: str, owner: str) -> Any:
    """Import a library of the extra ``tables``; raise ImportError that names the extra."""
    try:
        return import_module(name)
    except ImportError as error:
        fix = "pip install 'ppl-vae[tables]'"
        raise ImportError(f"{owner} needs the package {name}: {fix}") from error


def read(frame: Frame, owner: str) -> Table:
    """Return the columns of a table; ``owner`` is whose argument it is, for messages."""
    table = (
        _from_array(frame, owner) if isinstance(frame, np.ndarray) else _from_frame(frame, owner)
    )
    if not table.cells:
        raise ValueError(f"{owner}: the table has no columns")
    if table.rows == 0:
        raise ValueError(f"{owner}: the table has no rows")
    return table


def _from_array(array: np.ndarray, owner: str) -> Table:
    hidden = np.ma.getmaskarray(array) if isinstance(array, np.ma.MaskedArray) else None
    array = np.asarray(array)
    fields = array.dtype.names
    if array.ndim != (2 if fields is None else 1):
        expected = "two dimensions, rows by columns" if fields is None else "one dimension"
        raise ValueError(f"{owner}: the array must have {expected}, got shape {array.shape}")
    if fields is None:
        columns: dict[str, Any] = {f"x{j}": (..., j) for j in range(array.shape[1])}
    else:
        columns = {name: name for name in fields}
    names = _names(list(columns), owner)
    cells = {}
    for name, index in zip(names, columns.values(), strict=True):
        unseen = np.zeros(len(array), bool) if hidden is None else hidden[index]
        cells[name] = _of_numpy(name, array[index], unseen, owner)
    return Table("array" if fields is None else "numpy", cells, len(array))


def _of_numpy(name: str | int, values: np.ndarray, hidden: np.ndarray, owner: str) -> Cells:
    dtype = values.dtype
    if values.ndim != 1 or dtype.kind not in "biufUOT":
        fix = _AS_NUMBERS if dtype.kind in "mM" else _OTHER
        got = dtype if values.ndim == 1 else f"{dtype} of shape {values.shape[1:]}"
        raise TypeError(f"{owner}: column {quoted(name)} has dtype {got}; {fix}")
    if dtype.kind in "UOT":
        objects = values.astype(object)
        objects[hidden] = None
        word = "T" if dtype.kind == "T" else dtype.str
        return _of_objects(name, word, objects.tolist(), owner)
    word = dtype.name if dtype.isnative else dtype.str
    return _of_numbers(name, word, values, hidden)


def eager(frame: object, owner: str) -> tuple[Any, list[str | int]]:
    """Return a frame as narwhals', and the names of its columns, checked."""
    if frame is None or isinstance(frame, (list, tuple, dict, set, int, float)):  # needs no library
        raise TypeError(f"{owner}: the table must be {_ACCEPTED}, got {describe(frame)}")
    nw = library("narwhals", owner)
    frame = nw.to_native(frame, pass_through=True)
    if nw.dependencies.is_polars_lazyframe(frame):
        raise TypeError(f"{owner}: the table must be in memory, got a LazyFrame; use .collect()")
    named = _names_of(frame)
    names = None if named is None else _names(named, owner)
    try:
        table = nw.from_native(frame, eager_only=True)
        known = table.implementation.value in LIBRARIES
    except (TypeError, AttributeError):
        known = False
    if not known or names is None:
        got = f"{type(frame).__module__.partition('.')[0]}.{type(frame).__name__}"
        raise TypeError(f"{owner}: the table must be {_ACCEPTED}, got {got}")
    return table, names


def _from_frame(frame: object, owner: str) -> Table:
    table, names = eager(frame, owner)
    nw, origin = library("narwhals", owner), str(table.implementation.value)
    columns = zip(names, table.iter_columns(), strict=True)
    cells = {name: _of_series(nw, name, series, origin, owner) for name, series in columns}
    index = table.to_native().index if origin == "pandas" else None
    return Table(origin, cells, len(table), index)


def _names_of(frame: object) -> list[object] | None:
    """Return the names of a frame's columns; pyarrow has another word for them."""
    names = getattr(frame, "column_names", None)
    names = getattr(frame, "columns", None) if names is None else names
    return list(names) if isinstance(names, Iterable) else None


def _names(given: Sequence[object], owner: str) -> list[str | int]:
    """Return names of columns, checked."""
    names = []
    for place, name in enumerate(given):
        if isinstance(name, tuple):
            raise TypeError(
                f"{owner}: columns must have one level of names, got {describe(name)}; flatten "
                f"them: frame.columns = ['_'.join(map(str, name)) for name in frame.columns]"
            )
        try:
            names.append(column_name(name))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{owner}: {error}; rename column {place} of the table") from None
    seen: set[str] = set()
    for name in names:  # 1 and '1' would read alike
        if str(name) in seen:
            raise ValueError(f"{owner}: the table has two columns {quoted(name)}; rename one")
        seen.add(str(name))
    return names


def _of_series(nw: Any, name: str | int, series: Any, origin: str, owner: str) -> Cells:
    dtype = series.dtype
    native = _native_dtype(series, origin)
    if dtype in (nw.Categorical, nw.Enum) and not native.endswith("[pyarrow]"):
        declared, ordered = _declared(series, origin)
        return _of_objects(name, native, series.to_list(), owner, declared, ordered)
    if dtype == nw.String or (dtype == nw.Object and native == "object"):
        return _of_objects(name, native, series.to_list(), owner)
    numeric = dtype.is_integer() or dtype.is_float() or dtype == nw.Boolean
    if not numeric and series.is_null().all():  # the null types of polars and pyarrow, say
        return Cells(name, native, np.zeros(len(series)), np.ones(len(series), bool))
    if not numeric or dtype in (nw.Int128, nw.UInt128):
        fix = _AS_NUMBERS if dtype.is_temporal() else _OTHER
        if native.startswith("Sparse["):
            fix = "make it dense, frame[name].sparse.to_dense()"
        raise TypeError(f"{owner}: column {quoted(name)} has dtype {reason(native, 60)}; {fix}")
    missing = np.asarray(series.is_null().to_numpy(), bool)
    if missing.any():
        series = series.fill_null(False if dtype == nw.Boolean else 0)
    return _of_numbers(name, native, np.asarray(series.to_numpy()), missing)


def _native_dtype(series: Any, origin: str) -> str:
    """Return the dtype in its library's words, from which ``native`` makes it again."""
    if origin == "polars":
        return str(series.dtype).partition("(")[0]
    native = series.to_native()
    if origin == "pyarrow":
        return str(native.type)
    dtype = native.dtype
    if str(dtype) == "category":
        return f"category[{dtype.categories.dtype}{', ordered' if dtype.ordered else ''}]"
    if str(dtype).startswith("string"):  # two dtypes of pandas go by "string[pyarrow]"
        of_arrow = type(dtype).__name__ == "ArrowDtype"
        return "utf8[pyarrow]" if of_arrow else f"string[{dtype.storage}]"
    return str(dtype)


def _declared(series: Any, origin: str) -> tuple[tuple[object, ...] | None, bool]:
    """Return the categories that a dtype names, and whether it orders them."""
    native = series.to_native()
    if origin == "pandas":
        return tuple(native.dtype.categories.tolist()), bool(native.dtype.ordered)
    if origin == "pyarrow":
        if not native.type.ordered:
            return None, False
        chunks = native.unify_dictionaries().chunks
        return tuple(chunks[0].dictionary.to_pylist()) if chunks else None, True
    named = getattr(series.dtype, "categories", None)  # Categorical has those it has met so far
    return None if named is None else tuple(named), False


def _of_numbers(name: str | int, dtype: str, values: np.ndarray, missing: np.ndarray) -> Cells:
    if values.dtype.kind == "f":
        missing = missing | np.isnan(values)
    return Cells(name, dtype, values, missing)


def _of_objects(
    name: str | int,
    dtype: str,
    values: list[object],
    owner: str,
    declared: tuple[object, ...] | None = None,
    ordered: bool = False,
) -> Cells:
    """Return cells of Python objects, which must be all text, all bools or all numbers.

    Numbers that stood in objects come back as numbers.
    """
    missing = np.fromiter(map(_is_missing, values), bool, len(values))
    array = np.empty(len(values), object)
    array[:] = values
    if declared is not None:
        return Cells(name, dtype, array, missing, declared, ordered)
    rows: dict[str, int] = {}
    for row in np.flatnonzero(~missing).tolist():
        rows.setdefault(_sort(values[row]), row)
    if len(rows) > 1 and rows.keys() != {"int", "float"}:
        (one, first), (other, second), *_ = rows.items()
        here, there = quoted(values[first], 40), quoted(values[second], 40)
        raise TypeError(
            f"{owner}: column {quoted(name)} mixes {one} (row {first}: {here}) and {other} "
            f"(row {second}: {there}); give one type"
        )
    for sort, row in rows.items():
        if sort not in ("text", "bool", "int", "float"):
            fix = _AS_NUMBERS if sort in _TIMES else "decode it" if sort == "bytes" else _OTHER
            raise TypeError(
                f"{owner}: row {row}, column {quoted(name)} is {describe(values[row])}; {fix}"
            )
    if rows.keys() == {"bool"}:
        return Cells(name, dtype, np.where(missing, False, array).astype(bool), missing)
    if rows and "text" not in rows:
        filled = np.where(missing, 0, array)
        if "float" in rows:
            return Cells(name, "float64", filled.astype(float), missing)
        try:
            return Cells(name, "int64", filled.astype(np.int64), missing)
        except OverflowError as error:
            raise ValueError(
                f"{owner}: column {quoted(name)} has integers of more than 64 bits; {_OTHER}"
            ) from error
    return Cells(name, dtype, array, missing)


def one_cell(name: str | int, value: object, owner: str) -> Cells:
    """Return a column of one row."""
    return _of_objects(name, "object", [value], owner)


_TIMES = ("Timestamp", "Timedelta", "Period", "datetime", "date", "time", "timedelta", "datetime64")


def _sort(value: object) -> str:
    """Return in a word what a cell holds."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, (bool, np.bool_)):
        return "bool"
    if isinstance(value, Integral):
        return "int"
    return "float" if isinstance(value, Real) else type(value).__name__


def _is_missing(value: object) -> bool:
    if isinstance(value, (float, np.floating)):
        return bool(value != value)
    if value is None or type(value).__name__ in _NO_VALUES:
        return True
    return isinstance(value, (np.datetime64, np.timedelta64)) and bool(np.isnat(value))


def is_number(text: str) -> bool:
    """Return whether text reads as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
