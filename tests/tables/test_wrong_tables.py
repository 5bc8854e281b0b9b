"""Tables that cannot be used, and wrong calls: the message names the row, the column, the fix."""

import datetime
import decimal
import re
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

import ppl_vae
from ppl_vae.tables import Column, Schema

ROOT = Path(ppl_vae.__file__).parent
NAN, INF = float("nan"), float("inf")

pytestmark = pytest.mark.usefixtures("as_users_see_it")

PEOPLE = {
    "age": [31, 45, 27, 60],
    "height": [1.7, 1.8, 1.65, 1.75],
    "shift": [-1.5, 0.5, 2.0, 0.0],
    "smoker": [True, False, True, False],
    "city": ["Bern", "Graz", "Lyon", "Graz"],
    "score": [10.0, 50.0, 90.0, 20.5],
}
BOUNDED = Column("score", "bounded", low=0, high=100)


def people(library=pd.DataFrame, **columns):
    return library({**PEOPLE, **columns})


def column(values, library=pd.DataFrame, **options):
    """Infer the schema of a table of one column."""
    return Schema.infer(library({"a": values}), **options)


def named(*names):
    """Infer the schema of a table whose columns have the names."""
    return Schema.infer(pd.DataFrame(np.arange(3.0 * len(names)).reshape(3, -1), columns=names))


def of_dtype(library, dtype):
    """Return a schema of one column, as a file may have it."""
    return Schema([Column("a", "real", dtype=dtype)], library)


NAMES = {
    "of_dtype": of_dtype,
    "np": np,
    "pd": pd,
    "pl": pl,
    "pa": pa,
    "torch": torch,
    "datetime": datetime,
    "decimal": decimal,
    "Column": Column,
    "Schema": Schema,
    "people": people,
    "column": column,
    "named": named,
    "NAN": NAN,
    "INF": INF,
    "schema": Schema.infer(people(), kinds={"score": BOUNDED}),
    "values": Schema.infer(people(), kinds={"score": BOUNDED}).encode(people())[0],
    "words": [f"word {i}" for i in range(60)],
    "array": np.arange(12.0).reshape(4, 3),
}

INFER = [
    # Numbers that no library reads as such.
    (
        "column([f'{i},5' for i in range(40)])",
        ValueError,
        "row 0",
        "'a'",
        "'0,5', a number",
        "cast",
    ),
    ("column([f'{i}%' for i in range(40)])", ValueError, "row 0", "'0%', a number", "1234.5"),
    ("column([f'1,{i:03d}.5' for i in range(40)])", ValueError, "'1,000.5', a number", "rewrite"),
    ("column([f'1 {i:03d}' for i in range(40)], pl.DataFrame)", ValueError, "'1 000', a number"),
    ("column(['n/a', *(f'{i},5' for i in range(40))])", ValueError, "row 0", "'n/a' among numbers"),
    # Dtypes of pandas, and cells, that are none of numbers, bools and text.
    ("column(pd.arrays.SparseArray([0.0, 1.5]))", TypeError, "Sparse[", ".sparse.to_dense()"),
    ("column(pd.period_range('2020-01', periods=3, freq='M'))", TypeError, "'a'", "period[M]"),
    ("column(pd.to_timedelta([1, 2], 's'))", TypeError, "'a'", "timedelta64", "give numbers"),
    ("column(pd.cut([1.0, 2.0, 3.0], 2))", TypeError, "'a'", "Interval", "rename_categories(str)"),
    ("column([1 + 2j, 3.0])", TypeError, "'a'", "complex128", "cast it"),
    ("column([{'u': 1}, {'u': 2}], pl.DataFrame)", TypeError, "'a'", "Struct", "cast it"),
    ("column([2**70, 1])", ValueError, "'a'", "more than 64 bits"),
    ("column(np.array([2**63, 5, 6], 'uint64'))", ValueError, "row 0", "within ±2**53"),
    ("named(('u', 'a'), ('u', 'b'))", TypeError, "one level", "flatten them"),
    ("named(1, 2.5)", TypeError, "strings or integers", "1.0", "rename column 0"),
    # The table as a whole.
    ("Schema.infer(None)", TypeError, "pandas or polars DataFrame", "None"),
    ("Schema.infer({'a': [1, 2]})", TypeError, "DataFrame", "dict"),
    ("Schema.infer([[1, 2]])", TypeError, "DataFrame", "list"),
    ("Schema.infer(pd.Series([1, 2]))", TypeError, "DataFrame", "Series"),
    ("Schema.infer(pl.DataFrame({'a': [1]}).lazy())", TypeError, "LazyFrame", ".collect()"),
    ("Schema.infer(np.arange(3))", ValueError, "two dimensions", "(3,)"),
    ("Schema.infer(np.zeros((2, 2, 2)))", ValueError, "two dimensions", "(2, 2, 2)"),
    ("Schema.infer(np.zeros((2, 2), [('a', float)]))", ValueError, "one dimension", "(2, 2)"),
    ("Schema.infer('people.txt')", ValueError, ".csv or .parquet", "people.txt"),
    ("Schema.infer('no/such.csv')", FileNotFoundError, "no/such.csv"),
    ("Schema.infer(pd.DataFrame({'a': []}))", ValueError, "no rows"),
    ("Schema.infer(pd.DataFrame(index=[0, 1]))", ValueError, "no columns"),
    ("Schema.infer(pl.DataFrame())", ValueError, "no columns"),
    ("Schema.infer(np.zeros((0, 3)))", ValueError, "no rows"),
    ("Schema.infer(np.zeros((3, 0)))", ValueError, "no columns"),
    # Names.
    ("named('a', 'a')", ValueError, "two columns 'a'", "rename"),
    ("named(1, '1')", ValueError, "two columns", "rename"),
    ("named('1', 1)", ValueError, "two columns 1", "rename"),
    ("Schema.infer(pa.table([[1], [2]], names=['a', 'a']))", ValueError, "two columns 'a'"),
    ("named('a', '')", ValueError, "not be empty", "column 1"),
    ("named('a', None)", TypeError, "strings or integers", "rename"),
    ("named('a', 1.5)", TypeError, "strings or integers", "1.5"),
    ("named('a', True)", TypeError, "strings or integers", "True"),
    ("named('a', pd.Timestamp(0))", TypeError, "strings or integers", "Timestamp"),
    ("named(('a', 'b'), ('a', 'c'))", TypeError, "one level", "('a', 'b')", "join"),
    # Cells.
    ("column([None, None])", ValueError, "'a'", "no observed cell", "drop it"),
    ("column([NAN, NAN])", ValueError, "'a'", "no observed cell"),
    ("column([None, None], pl.DataFrame)", ValueError, "'a'", "no observed cell"),
    ("column([None, None], pa.table)", ValueError, "'a'", "no observed cell"),
    ("column([pd.NaT, pd.NaT])", ValueError, "'a'", "no observed cell"),
    ("column([1.0, INF, 2.0])", ValueError, "row 1, column 'a' is inf", "missing"),
    ("column([1.0, 2.0, -INF], pl.DataFrame)", ValueError, "row 2, column 'a' is -inf"),
    ("column([INF, 2.0, 3.0], pa.table)", ValueError, "row 0, column 'a' is inf"),
    ("column([1.0, INF], kinds={'a': 'categorical'})", ValueError, "row 1", "'a'", "inf"),
    ("Schema.infer(np.array([[1.0], [INF], [3.0]]))", ValueError, "row 1, column 'x0'"),
    ("Schema.infer(pd.DataFrame({'a': [1.0, INF]}, index=['x', 'y']))", ValueError, "row 1 (ind"),
    ("column([3, 3, 3])", ValueError, "'a'", "3 in every row", "drop it", "kinds="),
    ("column(['x', 'x', None])", ValueError, "'a'", "'x' in every row", "drop it"),
    ("column([2.5, None, 2.5], pl.DataFrame)", ValueError, "'a'", "2.5 in every row"),
    ("column([2.5, 2.5], kinds={'a': 'real'})", ValueError, "'a'", "2.5", "without bound"),
    ("column([3, 3], kinds={'a': 'positive'})", ValueError, "'a'", "without bound", "drop"),
    ("column(pd.Categorical(['x', 'x']))", ValueError, "'a'", "one category", "'x'"),
    ("column(words)", ValueError, "'a'", "each of 60 rows", "identifier", "categorical"),
    ("column([f'w{i}' for i in range(10**4)] * 2)", ValueError, "'a'", "10000 categories"),
    ("column(pd.Categorical([f'w{i}' for i in range(1001)]))", ValueError, "'a'", "1001"),
    ("column([*map(str, range(30)), '?'] * 2)", ValueError, "row 30, column 'a'", "'?'", "numbers"),
    *(
        (f"column([*'12345', {mark!r}])", ValueError, f"'a' is {mark!r} among numbers", "missing")
        for mark in ("N/A", "NULL", "None", "NaN", "", " ", "-", "?", "na")
    ),
    ("column(['1', '-', '2', '?'])", ValueError, "row 1, column 'a' is '-' among numbers"),
    ("column([1, 'x', 2])", TypeError, "'a' mixes int (row 0: 1) and text (row 1: 'x')"),
    ("column([1.5, None, True])", TypeError, "'a' mixes float (row 0: 1.5) and bool (row 2"),
    ("column(['x', b'y'])", TypeError, "'a' mixes text", "bytes (row 1"),
    ("column([*words * 3, 7])", TypeError, "mixes text", "(row 180: 7)"),
    ("Schema.infer(np.array([[1], ['x']], object))", TypeError, "'x0' mixes", "row 1"),
    ("column([b'x', b'y'])", TypeError, "row 0, column 'a'", "b'x'", "decode"),
    ("column([b'x', b'y'], pl.DataFrame)", TypeError, "'a'", "Binary"),
    ("column([b'x', b'y'], pa.table)", TypeError, "'a'", "binary"),
    ("Schema.infer(np.array([(b'x',)], [('a', 'S1')]))", TypeError, "'a'", "S1"),
    ("column(pd.to_datetime(['2026-01-01', None]))", TypeError, "'a'", "datetime64", "days since"),
    ("column([datetime.date(2026, 1, 1), None])", TypeError, "row 0", "'a'", "days since"),
    ("column([None, datetime.date(2026, 1, 1)], pl.DataFrame)", TypeError, "Date", "days since"),
    ("column([datetime.time(1)], pa.table)", TypeError, "'a'", "time64", "days since"),
    ("column(pd.to_timedelta([1, 2], 'D'))", TypeError, "'a'", "timedelta64", "days since"),
    (
        "column(pd.array(['x'], pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))))",
        TypeError,
        "'a'",
        "dictionary",
        "cast",
    ),
    ("column(pd.array([0.0, 1.0], 'Sparse[float]'))", TypeError, "'a'", "Sparse", "dense"),
    ("column(pd.period_range('2026', periods=2, freq='Y'))", TypeError, "'a'", "period"),
    ("Schema.infer(np.zeros((2, 2), 'M8[D]'))", TypeError, "'x0'", "datetime64", "days since"),
    ("column([[1], [2, 3]])", TypeError, "row 0, column 'a'", "[1] (list)", "drop it"),
    ("column([[1], [2, 3]], pl.DataFrame)", TypeError, "'a'", "List", "drop it"),
    ("column([{'b': 1}, {'b': 2}], pa.table)", TypeError, "'a'", "struct"),
    ("column([object(), object()])", TypeError, "row 0, column 'a'", "object"),
    ("column([decimal.Decimal(1), decimal.Decimal(2)])", TypeError, "'a'", "Decimal", "cast"),
    ("column([decimal.Decimal(1)], pl.DataFrame)", TypeError, "'a'", "Decimal", "cast"),
    ("column([1j, 2j])", TypeError, "'a'", "complex128", "cast"),
    ("Schema.infer(np.zeros((2, 2), complex))", TypeError, "'x0'", "complex128", "cast"),
    ("Schema.infer(np.zeros(2, [('a', float, 3)]))", TypeError, "'a'", "shape (3,)"),
    ("column([1, 2, 2**53 + 1])", ValueError, "row 2, column 'a'", "9007199254740993", "2**53"),
    ("column([1, 2, -2**60], pl.DataFrame)", ValueError, "row 2, column 'a'", "2**53"),
    ("column([1, 2, 2**70])", ValueError, "'a'", "drop it"),
    ("column(pd.cut(pd.Series([1, 5, 9]), 3))", TypeError, "'a'", "Interval", "rename_categories"),
    # Kinds that are given.
    ("Schema.infer(people(), kinds=['age'])", TypeError, "kinds", "['age']"),
    ("Schema.infer(people(), kinds={'Age': 'count'})", ValueError, "'Age'", "'age'"),
    ("Schema.infer(people(), kinds={'age': 'integer'})", ValueError, "'age'", "'integer'", "count"),
    ("Schema.infer(people(), kinds={'age': int})", TypeError, "'age'", "int"),
    ("Schema.infer(people(), kinds={'age': Column('a', 'real')})", ValueError, "'age'", "'a'"),
    ("Schema.infer(people(), kinds={'age': 'bounded'})", ValueError, "'age'", "low", "high"),
    ("Schema.infer(people(), kinds={'shift': 'positive'})", ValueError, "row 0", "'shift'", "-1.5"),
    (
        "Schema.infer(people(), kinds={'shift': 'count'})",
        ValueError,
        "row 0",
        "-1.5",
        "zero or mor",
    ),
    ("Schema.infer(people(), kinds={'height': 'count'})", ValueError, "row 0", "1.7", "whole"),
    ("Schema.infer(people(), kinds={'height': 'binary'})", ValueError, "'height'", "4 distinct"),
    ("Schema.infer(people(), kinds={'city': 'real'})", TypeError, "row 0", "'city'", "'Bern'"),
    ("Schema.infer(people(), kinds={'city': 'ordinal'})", ValueError, "'city'", "order", "'Lyon'"),
    ("Schema.infer(people(), kinds={'smoker': 'real'})", TypeError, "'smoker'", "bool", "cast"),
    (
        "column(pd.Categorical([1, 2, 3]), kinds={'a': 'real'})",
        TypeError,
        "'a'",
        "category[int64]",
        "cast",
    ),
    (
        "column(pd.Categorical(['x', 'y', 'z']), kinds={'a': 'ordinal'})",
        ValueError,
        "'a'",
        "without an order",
        "('x', 'y', 'z')",
    ),
    (
        "column([1, 2, 5], kinds={'a': Column('a', 'ordinal', range(1, 4))})",
        ValueError,
        "row 2, column 'a' is 5",
        "(1, 2, 3)",
    ),
    (
        "column([1.0, 2.0, 10.0], kinds={'a': Column('a', 'bounded', low=1, high=10)})",
        ValueError,
        "row 0, column 'a' is 1.0",
        "numbers between 1 and 10, exclusive",
    ),
]

ENCODE = [
    ("schema.encode(people().drop(columns='age'))", ValueError, "lacks", "'age'"),
    ("schema.encode(people().rename(columns={'age': 'Age'}))", ValueError, "'age'", "'Age'"),
    ("schema.encode(people(weight=[1, 2, 3, 4]))", ValueError, "'weight'", "schema.names"),
    ("schema.encode(people()[:0])", ValueError, "no rows"),
    ("schema.encode(people(city=['Bern', 'Rome', None, None]))", ValueError, "row 1, column 'ci"),
    ("schema.encode(people(city=[None, 'x', 'y', None]))", ValueError, "'x'", "('Bern', 'Graz'"),
    ("schema.encode(people(city=[1, 2, 3, 4]))", ValueError, "row 0, column 'city' is 1"),
    ("schema.encode(people(smoker=[0, 1, 2, None]))", ValueError, "row 2, column 'smoker' is 2"),
    (
        "schema.encode(people(age=['31', None, 'old', 'x']))",
        TypeError,
        "row 0, column 'age'",
        "'31'",
    ),
    ("schema.encode(people(age=[1, 'old', 2, 3]))", TypeError, "'age'", "row 1: 'old'"),
    ("schema.encode(people(age=[1, -1, 2, 3]))", ValueError, "row 1, column 'age' is -1", "count"),
    ("schema.encode(people(age=[1, 2, 2.5, 3]))", ValueError, "row 2, column 'age' is 2.5", "whol"),
    ("schema.encode(people(height=[1, 2, 0, 3]))", ValueError, "row 2", "'height' is 0", "above z"),
    ("schema.encode(people(height=[NAN, 2, INF, 3]))", ValueError, "row 2", "'height' is inf"),
    (
        "schema.encode(people(pl.DataFrame, score=[1.0, None, 100.0, 3]))",
        ValueError,
        "row 2",
        "100",
    ),
    ("schema.encode(people(shift=pd.to_datetime(['2026'] * 4)))", TypeError, "'shift'", "datetime"),
    ("schema.encode(array)", ValueError, "lacks", "'age'"),
    ("schema.encode(np.zeros((4, 6)))", ValueError, "no names", "'age'"),
    ("schema.encode(people().to_numpy()[0])", ValueError, "two dimensions"),
    ("schema.encode(people().set_index('age'))", ValueError, "lacks column 'age'"),
    ("schema.encode(3)", TypeError, "DataFrame", "3"),
]

DECODE = [
    ("schema.decode('values')", TypeError, "values", "'values'"),
    ("schema.decode(torch.ones(2, 6, requires_grad=True))", TypeError, "values", "(2, 6)"),
    ("schema.decode(values[0])", ValueError, "(rows, 6)", "(6,)"),
    ("schema.decode(values[:, 1:])", ValueError, "(rows, 6)", "(4, 5)"),
    ("schema.decode(values, mask=values)", TypeError, "mask", "float64"),
    ("schema.decode(values, mask=values[:2] > 0)", ValueError, "mask", "(2, 6)"),
    ("schema.decode(values * 9)", ValueError, "row 0, column 'smoker'", "0 to 1", "9"),
    ("schema.decode(values + 0.25)", ValueError, "row 0", "'smoker'", "code", "1.25"),
    (
        "schema.decode(np.where(values == 31, INF, values))",
        ValueError,
        "row 0, column 'age'",
        "inf",
    ),
    ("schema.decode(values * NAN, values == values)", ValueError, "row 0", "'age'", "nan"),
    ("of_dtype('pandas', 'floaty').decode([[1.0]])", ValueError, "'a'", "'floaty' in pandas"),
    ("of_dtype('polars', 'read_csv').decode([[1.0]])", ValueError, "'a'", "'read_csv' in polars"),
    ("of_dtype('pyarrow', 'x').decode([[1.0]])", ValueError, "'a'", "'x' in pyarrow"),
    ("of_dtype('numpy', 'x').decode([[1.0]])", ValueError, "'a'", "'x' in numpy"),
    ("schema.decode(values, like=people()[:2])", ValueError, "like", "4 rows", "2"),
    ("schema.decode(values, like=people().drop(columns='age'))", ValueError, "lacks", "'age'"),
]

MADE = [
    ("Column('a', 'number')", ValueError, "'a'", "kind", "'number'", "'real'"),
    ("Column('', 'real')", ValueError, "name", "''"),
    ("Column(1.5, 'real')", TypeError, "name", "1.5"),
    ("Column('a', 'real', ('x', 'y'))", ValueError, "'a'", "categories", "'real'"),
    ("Column('a', 'categorical', 'xyz')", TypeError, "'a'", "categories", "'xyz'"),
    ("Column('a', 'categorical', ())", ValueError, "'a'", "one or more", "()"),
    ("Column('a', 'categorical', ('x', None))", TypeError, "'a'", "None"),
    ("Column('a', 'categorical', ('x', NAN))", TypeError, "'a'", "nan"),
    ("Column('a', 'categorical', ('x', 'x'))", ValueError, "'a'", "distinct", "'x'"),
    ("Column('a', 'categorical', (1, True))", ValueError, "'a'", "distinct", "True"),
    ("Column('a', 'binary', (1, 2, 3))", ValueError, "'a'", "two", "(1, 2, 3)"),
    ("Column('a', 'real', low=0)", ValueError, "'a'", "low", "bounded"),
    ("Column('a', 'bounded', low=0)", ValueError, "'a'", "high=None"),
    ("Column('a', 'bounded', low=1, high=1)", ValueError, "'a'", "below", "1"),
    ("Column('a', 'bounded', low=0, high=INF)", ValueError, "'a'", "high", "inf"),
    ("Column('a', 'bounded', low='0', high=1)", TypeError, "'a'", "low", "'0'"),
    ("Column('a', 'real', dtype=float)", TypeError, "'a'", "dtype", "float"),
    ("Column('a', 'real', missing=2)", ValueError, "'a'", "missing", "2"),
    ("Schema((), 'pandas')", ValueError, "columns", "none"),
    ("Schema('ab', 'pandas')", TypeError, "columns", "'ab'"),
    ("Schema(['a'], 'pandas')", TypeError, "Column", "'a'"),
    ("Schema(schema.columns, 'excel')", ValueError, "library", "'excel'"),
    ("Schema(schema.columns * 2, 'pandas')", ValueError, "'age' twice"),
    ("Schema([Column('a', 'real')], 'pandas')", ValueError, "'a'", "dtype"),
    ("Schema([Column('a', 'binary', dtype='int64')], 'pandas')", ValueError, "'a'", "categories"),
    ("schema['Age']", KeyError, "'Age'", "'age'"),
    ("Schema.from_dict(3)", TypeError, "mapping", "3"),
    ("Schema.from_dict({})", ValueError, "'library' and 'columns'", "[]"),
    ("Schema.from_dict({'library': 'pandas', 'columns': {}})", TypeError, "columns", "dict"),
    ("Schema.from_dict({'library': 'pandas', 'columns': [3]})", TypeError, "columns[0]", "3"),
    (
        "Schema.from_dict({'library': 'pandas', 'columns': [{'name': 'a'}]})",
        ValueError,
        "columns[0]",
        "'kind'",
    ),
    (
        "Schema.from_dict({**schema.to_dict(), 'columns': [{'name': 'a', 'kind': 'x', 'y': 1}]})",
        ValueError,
        "columns[0]",
        "'y'",
    ),
    ("Schema.from_dict({**schema.to_dict(), 'library': None})", ValueError, "library", "None"),
]

ROWS = [*INFER, *ENCODE, *DECODE, *MADE]


@pytest.mark.parametrize("row", ROWS, ids=[call for call, *_ in ROWS])
def test_what_is_wrong_is_named(row):
    call, error, *parts = row
    with pytest.raises(error) as caught:
        eval(call, NAMES)
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message
    assert message.count("\n") < 2, message
    assert len(message) < 400, message
    if not issubclass(error, OSError):
        place = Path(traceback.extract_tb(caught.tb)[-1].filename)
        assert place.is_relative_to(ROOT), message


def test_each_call_is_there_once():
    calls = [call for call, *_ in ROWS]
    assert len(set(calls)) == len(calls) >= 40


def test_what_cells_hold_is_safe_for_a_terminal():
    strange = "\x1b[31mred"
    frame = pd.DataFrame({strange: ["a", "b", "c"]})
    schema = Schema.infer(frame)
    with pytest.raises(ValueError, match=re.escape(r"column '\x1b[31mred' is '\x1b[31mred'")):
        schema.encode(pd.DataFrame({strange: [strange, "a", "b"]}))
    assert "\x1b" not in repr(schema)
