"""The kind of each column by the rules, in every library."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from ppl_vae.tables import Column, Schema

NAN = float("nan")

RULES = [
    ([True, False, None], "binary", (False, True)),
    ([True, True], "binary", (False, True)),  # bools declare the other
    ([0, 1, 1], "binary", (0, 1)),
    ([1.0, 0.0, NAN], "binary", (0, 1)),
    ([1, 2, 2], "binary", (1, 2)),
    ([1.0, 2.0, NAN], "binary", (1, 2)),
    ([0.5, 1.5, 0.5], "binary", (0.5, 1.5)),
    (["yes", "no", None], "binary", ("no", "yes")),
    (["b", "c", "a", None], "categorical", ("a", "b", "c")),
    (["7", "10", "9"], "categorical", ("10", "7", "9")),
    (["", "a", "b"], "categorical", ("", "a", "b")),
    (["1", "2", "A", "?"], "categorical", ("1", "2", "?", "A")),
    (["", "-", "?"], "categorical", ("", "-", "?")),
    ([3, 0, 7], "count", None),
    ([3.0, 0.0, NAN, 7.0], "count", None),
    ([3, None, 7, 9], "count", None),
    ([3, -1, 7], "real", None),
    ([3.0, -1.0, 7.0], "real", None),
    ([0.5, 1.5, 1e-9, NAN], "positive", None),
    ([1e20, 2e20, 5e25], "positive", None),  # too large to be counted
    ([0.5, 0.0, 1.5], "nonnegative", None),
    ([0.5, -2.0, 1.5], "real", None),
]


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table])
@pytest.mark.parametrize(("values", "kind", "categories"), RULES)
def test_a_column_is_of_the_first_kind_that_holds(library, values, kind, categories):
    column = Schema.infer(library({"a": values}))["a"]
    assert (column.kind, column.categories) == (kind, categories)
    if categories is not None:  # 0, 0.0 and False are equal
        assert list(map(type, column.categories)) == list(map(type, categories))


@pytest.mark.parametrize(("values", "kind", "categories"), RULES)
def test_and_so_it_is_in_arrays(values, kind, categories):
    missing = [value is None for value in values]
    filled = [values[0] if value is None else value for value in values]
    array = np.array(filled)
    for given in (array.reshape(-1, 1), np.array([(v,) for v in filled], [("x0", array.dtype)])):
        masked = np.ma.array(given)
        masked[missing] = np.ma.masked
        for each in (masked, np.array(values, object).reshape(-1, 1)):
            column = Schema.infer(each)["x0"]
            assert (column.kind, column.categories) == (kind, categories)
            assert column.missing == sum(v is None or v != v for v in values) / len(values)


def categorical(values, categories, ordered=False):
    return pd.DataFrame({"a": pd.Categorical(values, categories, ordered=ordered)})


@pytest.mark.parametrize(
    ("frame", "kind", "categories"),
    [
        (categorical(["b"], ["b", "a"]), "binary", ("b", "a")),
        (categorical(["b"], ["b", "a"], True), "binary", ("b", "a")),
        (categorical(["b", None], ["b", "c", "a"]), "categorical", ("b", "c", "a")),
        (categorical(["b", None], ["b", "c", "a"], True), "ordinal", ("b", "c", "a")),
        (categorical([3, 1], [3, 1, 2], True), "ordinal", (3, 1, 2)),
        (
            pl.DataFrame({"a": ["b"]}, schema={"a": pl.Enum(["b", "c", "a"])}),
            "categorical",
            ("b", "c", "a"),
        ),
        (
            pl.DataFrame({"a": ["b", "c", "a"]}, schema={"a": pl.Categorical}),
            "categorical",
            ("a", "b", "c"),
        ),
        (
            pa.table({"a": pa.array(["b", "c", "a"]).dictionary_encode()}),
            "categorical",
            ("a", "b", "c"),
        ),
        (
            pa.table(
                {"a": pa.DictionaryArray.from_arrays([0, None], ["b", "c", "a"], ordered=True)}
            ),
            "ordinal",
            ("b", "c", "a"),
        ),
    ],
)
def test_dtypes_declare_categories_and_their_order(frame, kind, categories):
    column = Schema.infer(frame)["a"]
    assert (column.kind, column.categories) == (kind, categories)


@pytest.mark.parametrize(
    ("values", "given", "categories"),
    [
        ([3, 1, 2], "ordinal", (1, 2, 3)),
        ([3.0, 1.0, NAN], "categorical", (1, 3)),
        ([4.5, 0.5, 1.0], "ordinal", (0.5, 1.0, 4.5)),
        (["x", "x"], "categorical", ("x",)),
        ([1, 1], "binary", (0, 1)),
        ([True, True], "categorical", (False, True)),
        (["low", "high"], Column("a", "ordinal", ["low", "mid", "high"]), ("low", "mid", "high")),
        ([2, 3], Column("a", "ordinal", range(1, 6)), (1, 2, 3, 4, 5)),
        (
            [f"w{i}" for i in range(1200)],
            "categorical",
            tuple(sorted(f"w{i}" for i in range(1200))),
        ),
    ],
)
def test_kinds_that_are_given_come_first(values, given, categories):
    column = Schema.infer(pd.DataFrame({"a": values}), kinds={"a": given})["a"]
    assert column.categories == categories
    assert column.kind == (given if isinstance(given, str) else given.kind)


def test_an_enum_of_polars_has_an_order_for_levels():
    frame = pl.DataFrame({"a": ["b"]}, schema={"a": pl.Enum(["b", "c", "a"])})
    column = Schema.infer(frame, kinds={"a": "ordinal"})["a"]
    assert (column.kind, column.categories) == ("ordinal", ("b", "c", "a"))


@pytest.mark.parametrize("given", ["real", "positive", "count"])
def test_a_number_is_of_any_kind_that_it_fits(given):
    column = Schema.infer(pd.DataFrame({"a": [1, 2, 1]}), kinds={"a": given})["a"]
    assert (column.kind, column.minimum, column.maximum) == (given, 1.0, 2.0)


def test_a_count_may_be_constant():
    assert Schema.infer(pd.DataFrame({"a": [0, 0]}), kinds={"a": "count"})["a"].maximum == 0.0


def test_counts_that_vary_less_than_counts_can_are_named():
    years = pd.DataFrame({"year": np.arange(40) % 20 + 2000})
    with pytest.warns(UserWarning, match=r"'year' .* 44.8, and here it is 5.77.*'year': 'real'"):
        assert Schema.infer(years)["year"].kind == "count"
    for kind in ("real", "count"):
        assert Schema.infer(years, kinds={"year": kind})["year"].kind == kind
    heights = pd.DataFrame({"cm": np.arange(80) % 28 + 156})  # of a standard deviation of 8
    with pytest.warns(UserWarning, match=r"'cm' .* at least the root of their mean, 13, and here"):
        Schema.infer(heights)
    Schema.infer(years[:3])  # as few may be alike by chance
    Schema.infer(pd.DataFrame({"a": np.random.default_rng(0).poisson(2000.0, 40)}))


def test_settings_of_a_column_are_kept():
    given = Column("a", "bounded", low=0, high=100)
    column = Schema.infer(pl.DataFrame({"a": [1.0, None, 99.0]}), kinds={"a": given})["a"]
    assert (column.low, column.high, column.dtype) == (0.0, 100.0, "Float64")
    assert column.missing == pytest.approx(1 / 3)


def test_rows_without_an_observed_cell_are_kept():
    frame = pd.DataFrame({"a": [1.5, None, 2.5], "b": ["x", None, "y"]})
    values, mask = Schema.infer(frame).encode(frame)
    assert mask.tolist() == [[True, True], [False, False], [True, True]]
    assert np.isnan(values[1]).all()


def test_what_is_missing_in_objects():
    marks = [None, NAN, pd.NA, pd.NaT, np.float32(NAN), np.datetime64("NaT"), "x", "y", ""]
    column = np.empty(len(marks), object)
    column[:] = marks
    for frame in (pd.DataFrame({"x0": column}), column.reshape(-1, 1)):
        schema = Schema.infer(frame)
        assert schema["x0"].categories == ("", "x", "y")
        assert schema.encode(frame)[1].ravel().tolist() == [False] * 6 + [True] * 3


def test_names_are_strings_or_integers():
    frame = pd.DataFrame(np.arange(6.0).reshape(3, 2))
    schema = Schema.infer(frame)
    assert schema.names == (0, 1)
    pd.testing.assert_frame_equal(schema.decode(schema.encode(frame)[0]), frame)


@pytest.mark.parametrize(
    "day", ["2000-01-{:02}", "{}/2/2000", "{:02}.03.2000", "2000-01-{:02}T10:30"]
)
def test_dates_as_text_are_refused(day):
    frame = pd.DataFrame({"day": [day.format(1 + i % 20) for i in range(60)], "v": range(60)})
    with pytest.raises(ValueError, match=r"column 'day' has dates, such as .* since a date"):
        Schema.infer(frame)
    assert Schema.infer(frame, kinds={"day": "categorical"})["day"].kind == "categorical"
