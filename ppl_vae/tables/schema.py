"""The columns of a table: inferred, checked, encoded as numbers, and decoded again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from ppl_vae.errors import describe, quoted
from ppl_vae.tables.column import KINDS, Column
from ppl_vae.tables.decoding import build, decoded, filled_from, holds, plain_dtype
from ppl_vae.tables.encoding import encode_column
from ppl_vae.tables.files import read_table
from ppl_vae.tables.frames import LIBRARIES, Cells, Frame, Table, one_cell, read
from ppl_vae.tables.inference import infer_column

_HEADINGS = ("name", "kind", "dtype", "values", "missing")


@dataclass(frozen=True, repr=False)
class Schema:
    """What the columns of a table are, and how its cells become numbers and come back.

    Made by :meth:`infer`, or of columns that are known. ``len(schema)`` is D, the number of
    columns, iteration goes over them, and ``schema[name]`` is one of them. A schema prints as a
    table.

    Args:
        columns: in the order of the encoded values; every one has its categories, where its kind
            is binary, categorical or ordinal, and its dtype.
        library: where the table came from and decoded ones go: ``"pandas"``, ``"polars"``,
            ``"pyarrow"``, ``"numpy"`` (structured arrays) or ``"array"`` (of two dimensions).

    Raises:
        TypeError: for an argument of another type.
        ValueError: without columns, for two of one name, for one that lacks its categories or its
            dtype, and for another library.
    """

    columns: Sequence[Column]
    library: str

    def __post_init__(self) -> None:
        if isinstance(self.columns, str) or not isinstance(self.columns, Sequence):
            raise TypeError(f"columns must be a sequence of Column, got {describe(self.columns)}")
        vars(self)["columns"] = tuple(self.columns)
        if self.library not in LIBRARIES:
            raise ValueError(f"library must be one of {LIBRARIES}, got {describe(self.library)}")
        if not self.columns:
            raise ValueError("columns must be one or more, got none")
        seen: set[str] = set()
        for column in self.columns:
            if not isinstance(column, Column):
                raise TypeError(f"columns must be of class Column, got {describe(column)}")
            name = quoted(column.name)
            if str(column.name) in seen:
                raise ValueError(f"columns must have distinct names, got {name} twice")
            seen.add(str(column.name))
            for setting in ("dtype", *(["categories"] if column.coded else [])):
                if getattr(column, setting) is None:
                    raise ValueError(
                        f"column {name}: {setting} must be given in a schema, got None; use "
                        f"Schema.infer(frame, kinds=...), which fills it in"
                    )

    @classmethod
    def infer(cls, frame: Frame, kinds: Mapping[Any, str | Column] | None = None) -> Schema:
        """Return the schema of a table, each column's kind being the first of these that holds.

        ======================================================  ==============================
        a column                                                its kind
        ======================================================  ==============================
        named in ``kinds``                                      as given
        bool                                                    binary
        category (pandas), Enum (polars), of two categories     binary
        ordered category (pandas) or dictionary (pyarrow)       ordinal
        other category or Enum                                  categorical
        with two distinct values                                binary
        text (also digits as text)                              categorical
        integers (also floats all whole), all zero or more      count
        integers, one negative                                  real
        floats, all above zero                                  positive
        floats, all zero or more                                nonnegative
        other floats                                            real
        ======================================================  ==============================

        Numbers that mean categories, such as codes of towns, are counts by these rules: name them
        in ``kinds``. Categories stand in the order of the dtype, else in ascending order; those of
        a category dtype are kept where no row has them. A binary column has the categories
        ``(False, True)``, ``(0, 1)``, or the two values.

        Missing are None, NaN, ``pandas.NA`` and NaT, nulls, and what a masked array hides. An
        empty string is a category. Numbers in a column of Python objects come back as int64 or
        float64.

        Args:
            frame: a pandas or polars DataFrame, a pyarrow Table, a NumPy structured array, an
                array of two dimensions (its columns are named ``"x0"``, ``"x1"``, ...), or the path
                of a file for `read_table`. Names are strings or integers.
            kinds: by name, a kind (one of `KINDS`) or a `Column` with its settings: the order of
                levels, or bounds. Kind ``"bounded"`` needs a `Column`, as does ``"ordinal"`` of
                text that has no order. Categories given there replace those of a category dtype.

        Raises:
            TypeError: for another table, for a column whose dtype is not numbers, bools or text
                (dates, lists, bytes, complex numbers), or of mixed types.
            ValueError: for no rows, no columns, two columns of one name, one without an observed
                cell or with an infinite one, or integers beyond 2**53; and for a kind that does not
                fit. Where no kind is given also for a column of one value, which says nothing
                (bools and category dtypes declare what else there may be), and for an identifier:
                more than 1,000 categories, or another text in every row of more than 50; and for
                text of which nine in ten are numbers, or all but marks of missing cells, such as
                ``"?"`` among ages. A column of one value is never real, positive or bounded: its
                density has no bound.
            ImportError: without narwhals, or a library that reads the file.

        Warns:
            UserWarning: for integers taken for counts that vary far less than counts can, such as
                years.
        """
        owner = "Schema.infer"
        table = _table(frame, owner, kinds if isinstance(kinds, Mapping) else None)
        given = _given(kinds, table, owner)
        columns = [
            infer_column(cells, given.get(name), table, owner)
            for name, cells in table.cells.items()
        ]
        return cls(tuple(columns), table.library)

    @property
    def names(self) -> tuple[str | int, ...]:
        """The names of the columns: ``frame[list(schema.names)]`` selects them."""
        return tuple(column.name for column in self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __getitem__(self, name: str | int) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"there is no column {quoted(name)}; there are {quoted(self.names)}")

    @property
    def kinds(self) -> dict[str | int, Column]:
        """The columns by name, as :meth:`infer` takes them."""
        return dict(zip(self.names, self.columns, strict=True))

    def read(self, path: str | os.PathLike[str]) -> Any:
        """Return the table in a file as `read_table` does, categories that are text as text.

        By itself a file may have only digits where the schema has text.
        """
        return read_table(path, self.kinds)

    def encode(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """Return a table as numbers, and which cells are observed.

        Columns are found by name, in any order, in a table of any library, and any dtype will do
        that holds the values: integers for floats, text for a category dtype. Numbers stay as they
        are; of a column with categories comes the place of each cell's category, 0, 1, ... A row
        without an observed cell is kept.

        Args:
            frame: a table as in :meth:`infer`.

        Returns:
            Values of shape (N, D), float64, NaN where missing, and the mask of the same shape,
            bool, True where observed.

        Raises:
            TypeError: as in :meth:`infer`, and for text where numbers are expected.
            ValueError: for a column that is absent or unknown, a category that is not among the
                column's, a number that is infinite or outside its kind, and no rows; it names the
                row, from 0, and the column.
        """
        owner = "Schema.encode"
        table = self._matched(_table(frame, owner, self.kinds), owner)
        columns = [encode_column(column, table.cells[column.name], table, owner) for column in self]
        values = np.stack(columns, axis=1)
        return values, ~np.isnan(values)

    def encode_some(self, given: Mapping[Any, Any] | Frame) -> tuple[np.ndarray, np.ndarray]:
        """Return rows of which some columns are given, as :meth:`encode`; the others are missing.

        Args:
            given: a table with some of the columns, or one row as a mapping from names to values.

        Raises KeyError for a name that is not a column's, and otherwise as :meth:`encode`.
        """
        owner = "Schema.encode_some"
        if isinstance(given, Mapping):
            cells = {name: one_cell(name, value, owner) for name, value in given.items()}
            table = Table("array", cells, 1)
        else:
            table = _table(given, owner, self.kinds)
        values = np.full((table.rows, len(self)), np.nan)
        for name, column_cells in table.cells.items():
            coded = encode_column(self[name], column_cells, table, owner)
            values[:, self.names.index(name)] = coded
        return values, ~np.isnan(values)

    def decode(self, values: Any, mask: Any = None, like: Frame = None) -> Any:
        """Return numbers, as from :meth:`encode`, as a table of its library and dtypes.

        Counts, and numbers of integer dtypes, are rounded to the nearest integer that the dtype
        and the kind allow (at least 1 in a positive column); what is beyond a dtype becomes the
        largest number that it holds. A dtype that cannot be missing gives
        way where a cell is: int64 to Int64 and bool to boolean in pandas, an array to a masked one
        in NumPy.

        Args:
            values: of shape (N, D), in the order of the schema's columns.
            mask: bool, of the same shape; a cell where it is False is decoded as missing. By
                default those that are NaN.
            like: a table of the same rows that ``values`` fill in. Cells observed there come back
                as they are there; the library, the index of pandas and the dtypes of numbers are
                those of ``like``. Columns have the schema's order.

        Raises:
            TypeError: for values or a mask of another type, or ``like`` as in :meth:`encode`.
            ValueError: for another shape, a code that no category has, a number that is not finite,
                and a dtype that the library does not have.
        """
        owner = "Schema.decode"
        numbers, missing = self._numbers(values, mask, owner)
        table = None if like is None else self._matched(_table(like, owner, self.kinds), owner)
        if table is not None and table.rows != len(numbers):
            raise ValueError(
                f"{owner}: like must have the {len(numbers)} rows of values, got {table.rows}"
            )
        origin = self.library if table is None else table.library
        made = []
        for j, column in enumerate(self.columns):
            cells = None if table is None else table.cells[column.name]
            dtype = self._dtype(column, cells, origin)
            gone = missing[:, j] if cells is None else missing[:, j] & cells.missing
            unknown = missing[:, j] if cells is None else missing[:, j] | ~cells.missing
            found = decoded(column, numbers[:, j], unknown, dtype, owner)
            if cells is not None:
                found = filled_from(cells, found)
            if dtype is None or not holds(dtype, found):
                dtype = plain_dtype(origin, found)
            made.append(Cells(column.name, dtype, found, gone, column.categories))
        return build(origin, made, None if table is None else table.index, owner)

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as plain data for JSON, from which :meth:`from_dict` makes it again."""
        return {"library": self.library, "columns": [column.to_dict() for column in self]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schema:
        """Return the schema that :meth:`to_dict` described.

        Raises ValueError or TypeError, naming the entry, for anything else.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"a schema must be a mapping, got {describe(data)}")
        if data.keys() != {"library", "columns"}:
            raise ValueError(
                f"a schema must have the entries 'library' and 'columns', got {quoted(list(data))}"
            )
        listed = data["columns"]
        if not isinstance(listed, (list, tuple)):
            raise TypeError(f"columns must be a list, got {describe(listed)}")
        columns = []
        for place, entry in enumerate(listed):
            try:
                columns.append(Column.from_dict(entry))
            except (TypeError, ValueError) as error:
                raise type(error)(f"columns[{place}]: {error}") from None
        return cls(tuple(columns), data["library"])

    def __repr__(self) -> str:
        rows = [_HEADINGS, *self._rows()]
        widths = [max(len(row[k]) for row in rows) for k in range(len(_HEADINGS))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([f"Schema of {len(self)} columns ({self.library})", *lines])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
            for row in self._rows()
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _rows(self) -> list[tuple[str, ...]]:
        """Return what is printed of each column."""
        return [
            (
                quoted(column.name, 40).strip("'"),
                column.kind,
                quoted(column.dtype, 40).strip("'"),
                column.contents,
                f"{column.missing:.1%}",
            )
            for column in self
        ]

    def _matched(self, table: Table, owner: str) -> Table:
        """Return a table if it has the schema's columns and no others."""
        absent = [name for name in self.names if name not in table.cells]
        extra = [name for name in table.cells if name not in self.names]
        unnamed = table.library == "array" and self.library != "array"
        if unnamed and len(table.cells) == len(self) and absent:
            raise ValueError(
                f"{owner}: an array has no names of columns, and the schema has {_some(absent)}; "
                f"give a table that names them"
            )
        if absent:
            rest = f"; it has {_some(extra)} instead" if extra else ""
            raise ValueError(f"{owner}: the table lacks {_some(absent)}{rest}")
        if extra:
            raise ValueError(
                f"{owner}: the schema does not have {_some(extra)}; select those that it has, by "
                f"frame[list(schema.names)]"
            )
        return table

    def _numbers(self, values: Any, mask: Any, owner: str) -> tuple[np.ndarray, np.ndarray]:
        """Return values as float64, and which are missing, both checked."""
        try:
            numbers = np.asarray(values, dtype=float)
        except (TypeError, ValueError, RuntimeError) as error:  # torch's, of one with a gradient
            raise TypeError(f"{owner}: values must be numbers, got {describe(values)}") from error
        if numbers.ndim != 2 or numbers.shape[1] != len(self):
            raise ValueError(
                f"{owner}: values must have shape (rows, {len(self)}), got {numbers.shape}"
            )
        if mask is None:
            return numbers, np.isnan(numbers)
        observed = np.asarray(mask)
        if observed.dtype != bool:
            raise TypeError(f"{owner}: mask must be of bools, got dtype {observed.dtype}")
        if observed.shape != numbers.shape:
            raise ValueError(
                f"{owner}: mask must have the shape of values, {numbers.shape}, got "
                f"{observed.shape}"
            )
        return numbers, ~observed

    def _dtype(self, column: Column, cells: Cells | None, origin: str) -> str | None:
        """Return the dtype to decode a column into, None for the library's usual one."""
        if cells is not None and cells.values.dtype.kind in "iuf" and not cells.missing.all():
            return cells.dtype
        if origin == self.library:
            return column.dtype
        text = cells is not None and cells.values.dtype.kind == "O" and cells.declared is None
        return cells.dtype if cells is not None and text and not cells.missing.all() else None


def _table(frame: Frame, owner: str, kinds: Any = None) -> Table:
    """Return a table, that of a file read by what is known of its columns."""
    is_path = isinstance(frame, (str, os.PathLike))
    return read(read_table(frame, kinds) if is_path else frame, owner)


def _given(kinds: object, table: Table, owner: str) -> dict[str | int, Column]:
    """Return the columns whose kinds are given."""
    if kinds is None:
        return {}
    if not isinstance(kinds, Mapping):
        raise TypeError(f"{owner}: kinds must be a mapping of names, got {describe(kinds)}")
    given = {}
    for name, kind in kinds.items():
        if name not in table.cells:
            there = _some(list(table.cells))
            raise ValueError(f"{owner}: kinds names {_some([name])}, and the table has {there}")
        if not isinstance(kind, (str, Column)):
            raise TypeError(
                f"{owner}: kinds[{quoted(name)}] must be one of {KINDS}, or a Column, got "
                f"{describe(kind)}"
            )
        try:
            column = Column(name, kind) if isinstance(kind, str) else kind
        except ValueError as error:
            raise ValueError(f"{owner}: kinds: {error}") from None
        if column.name != name:
            raise ValueError(
                f"{owner}: kinds[{quoted(name)}] must be a column of that name, got "
                f"{quoted(column.name)}"
            )
        given[name] = column
    return given


def _some(names: Sequence[object]) -> str:
    """Return columns for a message."""
    if len(names) == 1:
        return f"column {quoted(names[0])}"
    return f"columns {quoted(list(names), 120)}"
