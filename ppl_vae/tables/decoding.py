"""Columns of float64 as cells of a library's own dtypes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppl_vae.errors import quoted, reason
from ppl_vae.tables.column import LARGEST_INTEGER, Column
from ppl_vae.tables.frames import Cells, library

_NUMBERS = {"double": "float64", "float": "float32", "halffloat": "float16", "boolean": "bool"}
_PLAIN = {
    "pandas": {"O": "object", "b": "bool", "i": "int64", "f": "float64"},
    "polars": {"O": "String", "b": "Boolean", "i": "Int64", "f": "Float64"},
    "pyarrow": {"O": "string", "b": "bool", "i": "int64", "f": "double"},
    "numpy": {"O": "O", "b": "?", "i": "<i8", "f": "<f8"},
    "array": {"O": "O", "b": "?", "i": "<i8", "f": "<f8"},
}
"""The dtype of text, bools, integers and floats in each library."""
_DICTIONARY = re.compile(r"dictionary<values=(\w+), indices=(\w+), ordered=(\d)>")


def number_dtype(dtype: str) -> np.dtype | None:
    """Return NumPy's dtype for one of numbers or bools in the words of any library, else None."""
    word = dtype.removesuffix("[pyarrow]")
    word = word.lower() if word[:1].isupper() else word  # of pandas and polars: Int64
    try:
        found = np.dtype(_NUMBERS.get(word, word))
    except (TypeError, ValueError):
        return None
    return found if found.kind in "biuf" else None


def decoded(
    column: Column, values: np.ndarray, missing: np.ndarray, dtype: str | None, owner: str
) -> np.ndarray:
    """Return values as ``dtype``, or categories as Python objects; missing cells are filled.

    Without a dtype, categories that are all numbers or all bools come as such.
    Raises ValueError for a code that no category has, and for a number that is not finite.
    """
    _check(column, values, missing, owner)
    numpy_dtype = None if dtype is None else number_dtype(dtype)
    if column.coded:
        categories = np.empty(len(column.categories or ()), object)
        categories[:] = column.categories
        cells = categories[np.where(missing, 0, values).astype(int)]
        as_given = numpy_dtype is None and dtype is not None
        return cells if as_given else _as_numbers(cells, numpy_dtype)
    filled = np.where(missing, 1.0, values)
    if column.kind == "count":
        filled = np.maximum(np.rint(filled), 0)
    if numpy_dtype is None or numpy_dtype.kind == "b":
        return filled
    return _within(column, filled, numpy_dtype)


def holds(dtype: str, values: np.ndarray) -> bool:
    """Return whether a dtype of numbers is that of the values; any other holds what it must."""
    expected = number_dtype(dtype)
    return expected is None or values.dtype in (expected, object)


def plain_dtype(origin: str, values: np.ndarray) -> str:
    """Return a library's usual dtype for values."""
    kind = "i" if values.dtype.kind == "u" else values.dtype.kind
    return _PLAIN[origin][kind]


def build(origin: str, columns: Sequence[Cells], index: Any, owner: str) -> Any:
    """Return a table of a library, whose dtypes the cells name; ``index`` is for pandas."""
    make, module = _MAKERS[origin], np if origin in ("numpy", "array") else library(origin, owner)
    made = {}
    for cells in columns:
        try:
            made[cells.name] = make(module, cells)
        except Exception as error:  # a dtype that a file names, and the library does not have
            raise ValueError(
                f"{owner}: column {quoted(cells.name)} cannot have the dtype "
                f"{quoted(cells.dtype, 60)} in {origin}: {reason(error)}"
            ) from error
    if origin == "pandas":
        return module.DataFrame(made, index=index)
    named = {str(name): array for name, array in made.items()}
    if origin == "polars":
        return module.DataFrame(named)
    return module.table(named) if origin == "pyarrow" else _array(origin, named)


def _array(origin: str, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Return columns as an array of two dimensions, or a structured one."""
    arrays = list(columns.values())
    masked = any(map(np.ma.isMaskedArray, arrays))
    if origin == "array":
        return (np.ma.stack if masked else np.stack)(arrays, axis=1)
    dtype = [(name, array.dtype) for name, array in columns.items()]
    table = (np.ma.empty if masked else np.empty)(len(arrays[0]), dtype=dtype)
    for name, array in columns.items():
        table[name] = array
    return table


def _check(column: Column, values: np.ndarray, missing: np.ndarray, owner: str) -> None:
    wrong = ~missing & ~np.isfinite(values)
    expected = "a finite number"
    if column.coded:
        most = len(column.categories or ()) - 1
        wrong |= ~missing & ((values < 0) | (values > most) | (values != np.rint(values)))
        expected = f"the code of a category, 0 to {most}"
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{owner}: row {row}, column {quoted(column.name)} must be {expected}, got "
            f"{values[row]:g}"
        )


def _as_numbers(cells: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    """Return categories as numbers of a dtype, or of one that holds them; text as it is."""
    numbers = np.array(cells.tolist())
    if numbers.dtype.kind not in "biuf":
        return cells
    if dtype is None:
        return numbers
    cast = numbers.astype(dtype)
    return cast if (cast == numbers).all() else numbers


def _within(column: Column, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return numbers in a dtype, rounded to it but not beyond it, nor onto a bound of the kind."""
    low, high = (0.0, None) if column.kind == "positive" else (column.low, column.high)
    if dtype.kind in "iu":
        least = max(np.iinfo(dtype).min, -LARGEST_INTEGER)
        most = min(np.iinfo(dtype).max, LARGEST_INTEGER)
        least = least if low is None else max(least, int(np.floor(low)) + 1)
        most = most if high is None else min(most, int(np.ceil(high)) - 1)
        return np.clip(np.rint(values), least, most).astype(dtype)
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    largest = np.finfo(dtype).max
    least_float = -largest if low is None else np.nextafter(dtype.type(low), dtype.type(np.inf))
    most_float = largest if high is None else np.nextafter(dtype.type(high), dtype.type(-np.inf))
    return np.clip(cast, least_float, most_float)


def _listed(cells: Cells) -> list[object]:
    """Return cells as Python objects, None for missing ones."""
    pairs = zip(cells.values.tolist(), cells.missing.tolist(), strict=True)
    return [None if missing else value for value, missing in pairs]


def _for_pandas(pd: Any, cells: Cells) -> Any:
    dtype, missing = cells.dtype, cells.missing
    if dtype.startswith("category["):
        of, _, order = dtype.removeprefix("category[").removesuffix("]").partition(", ")
        categories = pd.Index(list(cells.declared or ()), dtype=of)
        return pd.Categorical(_listed(cells), categories, ordered=bool(order))
    if cells.values.dtype.kind == "O":
        return pd.array(_listed(cells), dtype=dtype)
    if not missing.any():
        return pd.array(cells.values, dtype=dtype)
    if str(number_dtype(dtype)) == dtype:  # NumPy's, whose integers and bools cannot be missing
        if cells.values.dtype.kind == "f":
            return np.where(missing, np.nan, cells.values).astype(dtype)
        dtype = "boolean" if dtype == "bool" else dtype.capitalize().replace("Ui", "UI")
    array = pd.array(cells.values, dtype=dtype)
    array[missing] = pd.NA
    return array


def _for_polars(pl: Any, cells: Cells) -> Any:
    enum = cells.dtype == "Enum"
    dtype = pl.Enum(list(cells.declared or ())) if enum else getattr(pl, cells.dtype)
    return pl.Series(str(cells.name), _listed(cells), dtype=dtype)


def _for_arrow(pa: Any, cells: Cells) -> Any:
    found = _DICTIONARY.fullmatch(cells.dtype)
    if found is None:
        return pa.array(_listed(cells), type=pa.type_for_alias(cells.dtype))
    of, indices, ordered = found.groups()
    categories = list(cells.declared or ())
    code_of = {value: code for code, value in enumerate(categories)}
    codes = [None if cell is None else code_of[cell] for cell in _listed(cells)]
    return pa.DictionaryArray.from_arrays(
        pa.array(codes, pa.type_for_alias(indices)),
        pa.array(categories, pa.type_for_alias(of)),
        ordered=ordered == "1",
    )


def _for_numpy(_: Any, cells: Cells) -> np.ndarray:
    """Return an array; where a cell is missing it has NaN or None, else it is a masked one."""
    dtype, missing = np.dtype(cells.dtype), cells.missing
    if dtype.kind == "O":
        objects = cells.values.astype(object)
        objects[missing] = None
        return objects
    if cells.values.dtype.kind == "O":
        array = np.array(["" if cell is None else cell for cell in _listed(cells)])
        if dtype.kind != "U" or dtype.itemsize > array.dtype.itemsize:
            array = array.astype(dtype)  # else the categories given are wider
    else:
        array = cells.values.astype(dtype)
    if not missing.any():
        return array
    if dtype.kind == "f":
        return np.where(missing, np.nan, array).astype(dtype)
    return np.ma.array(array, mask=missing)


_MAKERS = {
    "pandas": _for_pandas,
    "polars": _for_polars,
    "pyarrow": _for_arrow,
    "numpy": _for_numpy,
    "array": _for_numpy,
}


def filled_from(cells: Cells, values: np.ndarray) -> np.ndarray:
    """Return values with those of the observed cells of a table put in, as they are there."""
    seen = ~cells.missing
    if not seen.any():
        return values
    kinds = {values.dtype.kind, cells.values.dtype.kind}
    out = values.astype(object if "O" in kinds else np.result_type(values, cells.values))
    out[seen] = cells.values[seen]
    return out
