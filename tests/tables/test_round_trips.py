"""Tables come back as they were: values, dtypes, categories, missing cells and index."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from polars.testing import assert_frame_equal as assert_polars_equal

from ppl_vae.tables import Column, Schema

NAN = float("nan")


def there_and_back(frame, **options):
    schema = Schema.infer(frame, **options)
    values, mask = schema.encode(frame)
    assert values.dtype == np.float64
    assert mask.dtype == bool
    assert values.shape == mask.shape == (len(frame), len(schema))
    assert np.array_equal(np.isnan(values), ~mask)
    again = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert repr(again) == repr(schema)
    return again.decode(values, mask)


PANDAS = {
    **{
        kind: pd.array([3, 1, 7], kind)
        for kind in ("int8", "int64", "uint16", "float32", "float64", "Int64", "UInt8", "Float32")
    },
    **{f"{kind} missing": pd.array([3, None, 7, 4], kind) for kind in ("Int16", "Float64")},
    "float64 missing": np.array([0.1, NAN, -3.0]),
    "arrow integers": pd.array([3, None, 7, 8], "int64[pyarrow]"),
    "arrow floats": pd.array([0.5, None, 7.5, 8], "float[pyarrow]"),
    "arrow bools": pd.array([True, None], "bool[pyarrow]"),
    "bool": [True, False],
    "boolean": pd.array([True, None, False], "boolean"),
    "objects of bools": np.array([True, None, False], object),
    "text": ["b", "a", "c"],
    "objects": np.array(["b", None, "c", "d"], object),
    "string": pd.array(["b", None, "a", "c"], "string[python]"),
    "arrow string": pd.array(["b", None, "a", "c"], "string[pyarrow]"),
    "arrow's own string": pd.array(["b", None, "a", "c"], pd.ArrowDtype(pa.string())),
    "category": pd.Categorical(["b", None], ["c", "b", "a"]),
    "ordered": pd.Categorical(["b", None, "a"], ["c", "b", "a"], ordered=True),
    "category of integers": pd.Categorical([2, 1, None], [3, 2, 1]),
    "two integers": [3, 5, 3],
    "two floats": [0.5, NAN, 1.5],
}


@pytest.mark.parametrize("name", PANDAS)
def test_pandas(name):
    frame = pd.DataFrame({"a": PANDAS[name]})
    assert_frame_equal(there_and_back(frame), frame)


POLARS = {
    **{
        str(kind): pl.Series([3, None, 7, 4], dtype=kind)
        for kind in (pl.Int8, pl.Int64, pl.UInt32, pl.Float32, pl.Float64)
    },
    "bool": pl.Series([True, None, False]),
    "text": pl.Series(["b", None, "a", "c"]),
    "categorical": pl.Series(["b", None, "a", "c"], dtype=pl.Categorical),
    "enum": pl.Series(["b", None, "a"], dtype=pl.Enum(["c", "b", "a"])),
}


@pytest.mark.parametrize("name", POLARS)
def test_polars(name):
    frame = pl.DataFrame({"a": POLARS[name]})
    assert_polars_equal(there_and_back(frame), frame)


def test_nan_of_polars_is_missing():
    back = there_and_back(pl.DataFrame({"a": [0.5, NAN, 1.5, None, -2.0]}))
    assert back["a"].to_list() == [0.5, None, 1.5, None, -2.0]


ARROW = {
    **{
        str(kind): pa.array([3, None, 7, 4], kind)
        for kind in (pa.int8(), pa.uint64(), pa.float32(), pa.float64())
    },
    "bool": pa.array([True, None, False]),
    "string": pa.array(["b", None, "a", "c"]),
    "large string": pa.array(["b", None, "a", "c"], pa.large_string()),
    "ordered": pa.DictionaryArray.from_arrays([1, None, 2], ["c", "b", "a"], ordered=True),
}


@pytest.mark.parametrize("name", ARROW)
def test_pyarrow(name):
    table = pa.table({"a": ARROW[name]})
    assert there_and_back(table).equals(table)


def test_a_dictionary_of_pyarrow_has_its_values():
    table = pa.table({"a": pa.array(["b", None, "a", "c"]).dictionary_encode()})
    back = there_and_back(table)
    assert back.schema == table.schema
    assert back.to_pylist() == table.to_pylist()


@pytest.mark.parametrize("dtype", ["i1", "u4", "f4", "f8", "?", "U4", "O"])
def test_structured_arrays(dtype):
    column = ["abc", "b", "c"] if dtype in ("U4", "O") else [3, 0, 7] if dtype != "?" else [1, 0, 1]
    array = np.array(
        [(v, w) for v, w in zip(column, [0.5, -2, 1], strict=True)], [("a", dtype), ("b", "f4")]
    )
    back = there_and_back(array)
    assert back.dtype == array.dtype
    assert (back == array).all()


@pytest.mark.parametrize("dtype", ["i4", "f4", "f8", "U4", "?"])
def test_arrays_of_two_dimensions(dtype):
    array = np.array([[1, 0], [0, 1], [5, 7]]).astype(dtype)
    back = there_and_back(array)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


def test_masked_arrays():
    array = np.ma.array([[1, 9], [4, 2], [7, 3], [5, 5]], mask=[[0, 1], [0, 0], [1, 0], [0, 0]])
    back = there_and_back(array)
    assert np.array_equal(back.mask, array.mask)
    assert (back == array).all()
    structured = np.ma.array(
        [("ab", 1.0), ("c", 2.5), ("d", -1.0)],
        mask=[(0, 1), (1, 0), (0, 0)],
        dtype=[("a", "U2"), ("b", float)],
    )
    back = there_and_back(structured)
    assert back["a"].tolist() == ["ab", None, "d"]
    assert np.isnan(back["b"][0])


def test_objects_of_numbers_come_back_as_numbers():
    frame = pd.DataFrame(
        {"a": np.array([1, None, 5, 7], object), "b": np.array([1, 2.5, 4, -2], object)}
    )
    back = there_and_back(frame)
    assert back.dtypes.astype(str).to_dict() == {"a": "Int64", "b": "float64"}
    assert back["b"].tolist() == [1.0, 2.5, 4.0, -2.0]


MIXED = pd.DataFrame(
    {
        "age": [31, 45, 27, 60],
        "height": [1.7, NAN, 1.65, 1.75],
        "grade": pd.Categorical(["b", "a", None, "a"], ["a", "b", "c"], ordered=True),
        "city": ["Bern", "Graz", None, "Lyon"],
        "smoker": [True, False, True, False],
    },
    index=["w", "x", "y", "z"],
)


def test_like_keeps_what_is_observed_and_the_index():
    schema = Schema.infer(MIXED)
    values, mask = schema.encode(MIXED)
    back = schema.decode(np.where(mask, values, 1.0), like=MIXED)
    expected = MIXED.copy()
    expected.loc["x", "height"] = 1.0
    expected.loc["y", "grade"] = "b"
    expected.loc["y", "city"] = "Graz"
    assert_frame_equal(back, expected)
    # Observed cells come from the table, whatever the values say.
    assert_frame_equal(schema.decode(np.ones_like(values), like=MIXED), expected)
    assert_frame_equal(schema.decode(np.where(mask, 99.0, 1.0), like=MIXED), expected)
    assert_frame_equal(schema.decode(np.full_like(values, NAN), like=MIXED), MIXED)
    # What is missing in both stays so.
    assert_frame_equal(schema.decode(values, mask, like=MIXED), MIXED)


def test_like_gives_the_dtypes_of_numbers():
    schema = Schema.infer(MIXED)
    gaps = MIXED.astype({"age": "float32"})
    gaps.loc["w", "age"] = NAN
    values, _ = schema.encode(gaps)
    back = schema.decode(np.where(np.isnan(values), 0.0, values), like=gaps)
    assert back["age"].dtype == "float32"
    assert back["age"].tolist() == [0.0, 45.0, 27.0, 60.0]


def test_like_may_lack_what_the_schema_knows():
    schema = Schema.infer(MIXED)
    values = schema.encode(MIXED)[0][:1]
    for library in (pd.DataFrame, pl.DataFrame, pa.table):
        empty = library({name: [None] for name in MIXED})
        back = schema.decode(values, like=empty)
        row = (
            back.to_pylist()[0]
            if isinstance(back, pa.Table)
            else dict(zip(MIXED, *back.to_numpy(), strict=True))
        )
        assert row == {"age": 31, "height": 1.7, "grade": "b", "city": "Bern", "smoker": True}


def test_a_number_that_the_dtype_of_like_cannot_hold():
    frame = pd.DataFrame({"stars": [0.5, 1.0, 4.5]})
    schema = Schema.infer(frame, kinds={"stars": "ordinal"})
    whole = pd.DataFrame({"stars": pd.array([1, None], "Int64")})
    back = schema.decode([[0], [2]], like=whole)
    assert back["stars"].tolist() == [1.0, 4.5]


def test_a_schema_reads_and_writes_other_libraries():
    schema = Schema.infer(MIXED)
    values, _ = schema.encode(MIXED)
    plain = {name: MIXED[name].astype(object).where(MIXED[name].notna(), None) for name in MIXED}
    plain = {name: column.tolist() for name, column in plain.items()}
    for frame in (pl.DataFrame(plain), pa.table(plain)):
        again, mask = schema.encode(frame)
        assert np.array_equal(again, values, equal_nan=True)
        back = schema.decode(np.where(mask, values, 2.0 * (values[0] == 31)), like=frame)
        assert type(back) is type(frame)
        rows = back.to_dicts() if isinstance(back, pl.DataFrame) else back.to_pylist()
        assert rows[0] == {"age": 31, "height": 1.7, "grade": "b", "city": "Bern", "smoker": True}
        assert rows[2]["grade"] == "a"


def test_columns_are_found_by_name_and_any_dtype_will_do():
    schema = Schema.infer(MIXED)
    values, mask = schema.encode(MIXED)
    other = MIXED[MIXED.columns[::-1]].astype(
        {"age": float, "height": "Float32", "grade": object, "city": "category", "smoker": int}
    )
    again, same = schema.encode(other)
    assert np.array_equal(same, mask)
    assert np.allclose(again, values, equal_nan=True, rtol=1e-7)
    absent = MIXED.assign(city=None, height=None)
    assert schema.encode(absent)[1][:, [1, 3]].any() == np.False_


def test_integers_are_rounded_within_what_is_allowed():
    frame = pd.DataFrame(
        {
            "real": pd.array([-3, 100, 5], "int8"),
            "count": pd.array([3, 0, 5], "uint8"),
            "positive": [3, 1, 5],
            "bounded": [3, 1, 9],
            "small": pd.array([0.5, 1, 2], "float32"),
            "inside": pd.array([0.5, 0.25, 0.75], "float32"),
            "counts": [1.0, 2.0, 3.0],
        }
    )
    kinds = {
        "positive": "positive",
        "bounded": Column("bounded", "bounded", low=0, high=10),
        "inside": Column("inside", "bounded", low=0, high=1),
    }
    schema = Schema.infer(frame, kinds=kinds)
    values = np.array(
        [
            [1e9, 1e9, 0.2, 9.9, 1e-60, 1 - 1e-12, 2.4],
            [-1e9, -5, 1.6, 0.1, 1e60, 1e-60, 2.6],
            [1.4, 7.6, 1e300, 4.4, 1.0, 0.5, -0.7],
        ]
    )
    back = schema.decode(values)
    assert back["real"].tolist() == [127, -128, 1]
    assert back["count"].tolist() == [255, 0, 8]
    assert back["positive"].tolist() == [1, 2, 2**53]
    assert back["bounded"].tolist() == [9, 1, 4]
    assert back["counts"].tolist() == [2.0, 3.0, 0.0]
    assert back.dtypes.equals(frame.dtypes)
    schema.encode(back)  # all of it is within the kinds


def test_missing_cells_of_dtypes_without_them():
    frame = pd.DataFrame(
        {"a": [3, 1, 7], "b": [True, False, True], "c": pd.array([1, 2, 3], "uint8")}
    )
    schema = Schema.infer(frame)
    mask = np.array([[True, False, True], [False, True, True], [True, True, False]])
    back = schema.decode(schema.encode(frame)[0], mask)
    assert back.dtypes.astype(str).tolist() == ["Int64", "boolean", "UInt8"]
    assert back.isna().to_numpy().tolist() == (~mask).tolist()
    assert back["a"].dropna().tolist() == [3, 7]
    array = Schema.infer(np.array([[3, 1], [5, 2], [7, 9]]))
    hidden = array.decode(np.array([[3.0, NAN], [5, 2], [7, 9]]))
    assert hidden.mask.tolist() == [[False, True], [False, False], [False, False]]


names = st.one_of(st.text(min_size=1, max_size=5), st.integers(-5, 5))
numbers = st.floats(allow_nan=False, allow_infinity=False)
labels = st.lists(
    st.one_of(st.text(max_size=5), st.integers(), numbers, st.booleans()),
    min_size=2,
    max_size=2,
    unique=True,
)


@st.composite
def settings_of_columns(draw):
    kind = draw(
        st.sampled_from(
            ["real", "positive", "count", "binary", "categorical", "ordinal", "bounded"]
        )
    )
    coded = kind in ("binary", "categorical", "ordinal")
    low, high = sorted(draw(st.lists(numbers, min_size=2, max_size=2, unique=True)))
    return {
        "name": draw(names),
        "kind": kind,
        "categories": draw(labels) if coded else None,
        "low": low if kind == "bounded" else None,
        "high": high if kind == "bounded" else None,
        "dtype": draw(st.text(max_size=5)),
        "minimum": draw(st.none() | numbers),
        "maximum": draw(st.none() | numbers),
        "missing": draw(st.floats(0, 1)),
    }


@given(
    found=st.lists(
        settings_of_columns(), min_size=1, max_size=4, unique_by=lambda c: str(c["name"])
    ),
    library=st.sampled_from(["pandas", "polars", "pyarrow", "numpy", "array"]),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_a_schema_is_the_same_after_json(found, library):
    schema = Schema([Column(**column) for column in found], library)
    again = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert again == schema
    assert hash(again) == hash(schema)
    for one, other in zip(schema, again, strict=True):
        for mine, its in zip(one.categories or (), other.categories or (), strict=True):
            assert type(mine) is type(its)


@given(
    values=st.lists(
        st.tuples(
            st.none() | st.integers(-(2**53), 2**53),
            st.none() | st.floats(allow_infinity=False, allow_nan=False),
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
        ),
        min_size=1,
        max_size=20,
    )
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_any_values_come_back(values):
    # The first rows see to it that each column can be inferred.
    rows = [(-1, 0.5, "a"), (5, -2.0, "b"), (6, 3.0, "c"), *values]
    types = {"a": pl.Int64, "b": pl.Float64, "c": pl.String}
    frame = pl.DataFrame(rows, schema=types, orient="row")
    assert_polars_equal(there_and_back(frame), frame)
    other = frame.to_pandas().astype({"a": "Int64", "c": "string[python]"})
    assert_frame_equal(there_and_back(other), other)
