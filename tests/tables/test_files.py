"""Tables in files: what is read is what was written, and what is wrong is named by its line."""

import os

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pandas.testing import assert_frame_equal

from ppl_vae import tables
from ppl_vae.tables import Column, Schema, files, read_table, write_table

FRAME = pd.DataFrame(
    {
        "age": [31.0, np.nan, 27.0],
        "city, town": ["Bern", None, 'the "old"\ntown'],
        "smoker": [True, False, True],
        "größe": [1, 2, 3],
    }
)


@pytest.fixture(params=["pandas", "polars"])
def backend(request, monkeypatch):
    monkeypatch.setattr(files, "_backend", lambda owner: request.param)
    return request.param


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".CSV"])
@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.Table.from_pandas])
def test_a_table_comes_back(tmp_path, suffix, library, backend):
    path = tmp_path / f"table{suffix}"
    frame = pl.from_pandas(FRAME) if library is pl.DataFrame else library(FRAME)
    write_table(frame, path)
    found = read_table(path)
    assert type(found).__module__.partition(".")[0] == backend
    found = found if backend == "pandas" else found.to_pandas()
    assert_frame_equal(found.convert_dtypes(), FRAME.convert_dtypes())
    assert os.listdir(tmp_path) == [path.name]


def test_parquet_keeps_dtypes_and_index(tmp_path):
    frame = FRAME.astype({"city, town": "category", "größe": "Int8"}).set_axis(["x", "y", "z"])
    write_table(frame, tmp_path / "a.parquet")
    assert_frame_equal(read_table(tmp_path / "a.parquet"), frame)


def test_arrays_are_written(tmp_path):
    array = np.ma.array([[1, 2], [3, 4]], mask=[[0, 1], [0, 0]])
    write_table(array, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "x0,x1\n1,\n3,4\n"
    write_table(np.array([("a", 0.5)], [("k", "U1"), ("v", float)]), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "k,v\na,0.5\n"


def test_cells_that_are_missing(tmp_path, backend):
    path = tmp_path / "a.csv"
    path.write_text('a,b,c\n1,x,2.5\n,NA,null\nnan,"",NaN\n4,None,-1\n')
    schema = Schema.infer(path, kinds={"a": "count", "c": "real"})
    values, mask = schema.encode(path)
    assert mask.tolist() == [[True] * 3, [False] * 3, [False] * 3, [True] * 3]
    assert schema["b"].categories == ("None", "x")
    assert values[[0, 3]].tolist() == [[1, 1, 2.5], [4, 0, -1]]


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table])
def test_a_missing_cell_alone_in_its_row(tmp_path, library, backend):
    path = tmp_path / "a.csv"
    write_table(library({"a": [1.5, None, 2.5, None]}), path)
    values, _ = Schema.infer(path).encode(path)
    assert np.array_equal(values, [[0], [np.nan], [1], [np.nan]], equal_nan=True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path, encoding, backend):
    path = tmp_path / "a.csv"
    path.write_bytes('"ä, ö",b\r\n1,2\r\n'.encode(encoding))
    assert list(read_table(path).columns) == ["ä, ö", "b"]


def test_a_column_has_one_dtype_however_late_its_text(tmp_path, backend):
    path = tmp_path / "a.csv"
    names, row = (",".join(words) for words in (map("c{}".format, range(64)), "1" * 64))
    path.write_text(f"{names}\n" + f"{row}\n" * 20_000 + f"x{row[1:]}\n")
    assert set(read_table(path)["c0"]) == {"1", "x"}


BAD = [
    ("", "is empty"),
    ("\n\n", "is empty"),
    ("a,b\n", "no row"),
    ("a,a\n1,2\n", "the name 'a' twice"),
    ("a,,c\n1,2,3\n", "field 2 of the first line", "index=False"),
    ("1,2.5\n3,4\n", "first line must have names", "['1', '2.5']"),
    ("a;b\n1;2\n", "between commas", "';'"),
    ("a\tb\n1\t2\n", "between commas"),
    ("a,b\n1,2\n1,2,3\n", "line 3 has 3 fields", "2 columns"),
    ("a,b\n1,2,3\n1,2,3\n", "line 2 has 3 fields", "2 columns"),
    ("a,b\n1,2\n1\n", "line 3 has 1 fields", "2 columns"),
    ("a,b\n1,2\n\n1,2\n", "line 3 is empty; remove it"),
    ("a,b\n1,2\n\n", "line 3 is empty; remove it"),
    ('a,b\n"x\ny",2\n1\n', "line 4 has 1 fields"),
    ('a,b\n1,2\n"x"y,2\n', "line 3"),
    ('a,b\n1,2\n"x,2\n', "line 3"),
]


@pytest.mark.parametrize(("text", "parts"), [(text, parts) for text, *parts in BAD])
@pytest.mark.usefixtures("as_users_see_it")
def test_a_csv_file_that_is_wrong(tmp_path, text, parts):
    path = tmp_path / "people.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"people\.csv") as caught:
        read_table(path)
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value


def test_a_file_of_another_encoding(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n" + b"1,x\n" * 20000 + "2,Köln\n".encode("latin-1"))
    with pytest.raises(ValueError, match="line 20002 is not UTF-8"):
        read_table(path)
    path.write_text("a,b\n1,2\n", encoding="utf-16")
    with pytest.raises(ValueError, match="line 1 is not UTF-8"):
        read_table(path)


def test_a_file_that_is_damaged(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"a\.parquet' cannot be read"):
        read_table(path)


@pytest.mark.usefixtures("as_users_see_it")
def test_paths_that_are_wrong(tmp_path):
    for call in (read_table, lambda path: write_table(FRAME, path)):
        with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet, got 'a\.xlsx'"):
            call(tmp_path / "a.xlsx")
        with pytest.raises(ValueError, match="must not be empty"):
            call("")
        with pytest.raises(TypeError, match="path must be a path, got 3"):
            call(3)
    with pytest.raises(FileNotFoundError, match=r"a\.csv"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(IsADirectoryError):
        read_table(tmp_path / "b.csv")
    with pytest.raises(FileNotFoundError, match=r"no folder of that name: .*none"):
        write_table(FRAME, tmp_path / "none" / "b.parquet")


def test_the_old_file_stays_where_writing_fails(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(FRAME, path)
    with pytest.raises(Exception, match=r"[Cc]onver"):  # pyarrow's, of a mixed column
        write_table(pd.DataFrame({"a": [1, "x"]}), path)
    assert_frame_equal(read_table(path), FRAME, check_dtype=False)
    assert os.listdir(tmp_path) == [path.name]


def test_a_library_that_is_absent_is_named_with_the_extra(tmp_path, monkeypatch):
    def absent(*arguments, **options):
        raise ImportError("no engine: pyarrow")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", absent)
    with pytest.raises(ImportError, match=r"pyarrow; pip install 'ppl-vae\[tables\]'"):
        write_table(FRAME, tmp_path / "a.parquet")
    assert os.listdir(tmp_path) == []
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with monkeypatch.context() as patch:
        patch.setattr(pd, "read_csv", absent)
        with pytest.raises(ImportError, match=r"read_table: .*pip install 'ppl-vae\[tables\]'"):
            read_table(tmp_path / "a.csv")
    monkeypatch.setattr(files, "find_spec", lambda name: None if name == "pandas" else name)
    assert isinstance(read_table(tmp_path / "a.csv"), pl.DataFrame)


CODES = "zip,age,acc,v\n00123,07,9007199254740993,1.50\n,8,,2\n01007,9,12,\n"


def test_what_a_number_would_lose_is_read_as_text(tmp_path, backend):
    path = tmp_path / "a.csv"
    path.write_text(CODES)
    schema = Schema.infer(path)
    assert schema["zip"].categories == ("00123", "01007")
    assert schema["acc"].categories == ("12", "9007199254740993")
    assert schema["age"].categories == ("07", "8", "9")
    assert schema["v"].kind == "binary"  # 1.5 and 2: nothing but zeros behind the point is lost
    write_table(schema.decode(*schema.encode(path)), path)
    found = [line.split(",")[:3] for line in path.read_text().splitlines()]
    assert found == [line.split(",")[:3] for line in CODES.splitlines()]


def test_numbers_of_any_length_are_read(tmp_path, backend):
    long = "9" * 5000  # more digits than Python makes an int of
    (tmp_path / "a.csv").write_text(f"a,b\n{long},9007199254740992\n1,-9007199254740992\n")
    found = read_table(tmp_path / "a.csv")
    assert list(found["a"]) == [long, "1"]
    assert list(found["b"]) == [2**53, -(2**53)]


def test_numbers_with_leading_zeros_are_numbers_where_kinds_say_so(tmp_path, backend):
    path = tmp_path / "a.csv"
    path.write_text(CODES)
    schema = Schema.infer(
        path, kinds={"age": "count", "zip": Column("zip", "bounded", low=0, high=2000)}
    )
    values, _ = schema.encode(path)
    np.testing.assert_array_equal(values[:, :2], [[123, 7], [np.nan, 8], [1007, 9]])
    with pytest.raises(ValueError, match=r"'acc' is 900719925474099[23]"):
        Schema.infer(path, kinds={"acc": "count"})


def test_categories_of_text_are_found_where_a_file_has_only_numbers(tmp_path, backend):
    path, some = tmp_path / "a.csv", tmp_path / "some.csv"
    path.write_text("grade,v\n1,1.5\n2,2.5\nA,3.5\n")
    some.write_text("grade,v\n2,1.5\n,2.5\n")
    schema = Schema.infer(path)
    assert schema.encode(some)[0][:, 0].tolist()[:1] == [1.0]
    assert next(iter(schema.read(some)["grade"])) == "2"
    vae = tables.fit(path, steps=1, latent_dim=1, hidden=(4,), progress=False)
    assert next(iter(vae.impute(some)["grade"])) == "2"
    given = {"grade": Column("grade", "categorical", ["2", "3"])}
    assert Schema.infer(some, kinds=given)["grade"].categories == ("2", "3")


def test_carriage_returns_in_text_come_back(tmp_path):
    frame = pd.DataFrame({"note": ["a\rb", "x", None], "v": [1, 2, 3]})
    for given in (frame, pl.from_pandas(frame), pa.Table.from_pandas(frame)):
        write_table(given, tmp_path / "a.csv")
        assert_frame_equal(read_table(tmp_path / "a.csv"), frame)
