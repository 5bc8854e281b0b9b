"""How a schema prints, what its columns say, and that the libraries of tables are optional."""

import ast
import sys
from pathlib import Path

import narwhals as nw
import numpy as np
import pandas as pd
import pytest

import ppl_vae
from ppl_vae import tables
from ppl_vae.tables import Column, Schema

FRAME = pd.DataFrame(
    {
        "age": [31, 45, 27, 60],
        "height": [1.7, None, 1.65, 1.75],
        "city": ["Bern", "Graz", "Lyon", "Oslo"],
        "<town>": ["a", "b", "c", "d"],
        "grade": [1, 5, 3, 2],
        "score": [10.0, 50.0, 90.0, 20.5],
    }
)
KINDS = {
    "grade": Column("grade", "ordinal", range(1, 7)),
    "score": Column("score", "bounded", low=0, high=100),
}


def test_a_schema_prints_as_a_table():
    frame = FRAME.astype({"city": object, "<town>": object})
    assert repr(Schema.infer(frame, KINDS)).splitlines() == [
        "Schema of 6 columns (pandas)",
        "name    kind         dtype    values                          missing",
        "age     count        int64    27 to 60                        0.0%",
        "height  positive     float64  1.65 to 1.75                    25.0%",
        "city    categorical  object   'Bern', 'Graz', 'Lyon', 'Oslo'  0.0%",
        "<town>  categorical  object   'a', 'b', 'c', 'd'              0.0%",
        "grade   ordinal      int64    1, 2, 3, 4, ... (6)             0.0%",
        "score   bounded      float64  10 to 90 within (0, 100)        0.0%",
    ]


def test_a_notebook_shows_the_same():
    schema = Schema.infer(FRAME, KINDS)
    shown = schema._repr_html_()
    assert shown.count("<tr>") == 7
    assert "<td>&lt;town&gt;</td>" in shown
    assert "<td>10 to 90 within (0, 100)</td>" in shown


def test_columns_by_name():
    schema = Schema.infer(FRAME, KINDS)
    assert len(schema) == 6
    assert schema.names == tuple(FRAME.columns)
    assert [column.name for column in schema] == list(FRAME.columns)
    assert schema["grade"].categories == (1, 2, 3, 4, 5, 6)
    assert schema == Schema.infer(FRAME, kinds=KINDS)


LIBRARIES = ("pandas", "polars", "pyarrow")


def test_arrays_need_no_library_of_data_frames(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    for name in LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    schema = Schema.infer(np.arange(6.0).reshape(3, 2))
    assert (schema.decode(schema.encode(np.ones((1, 2)))[0]) == 1).all()
    with pytest.raises(ImportError, match=r"pip install 'ppl-vae\[tables\]'"):
        tables.read_table(tmp_path / "a.csv")


def test_no_module_imports_a_library_of_data_frames_at_its_top():
    for file in Path(ppl_vae.__file__).parent.rglob("*.py"):
        found = {
            (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
            for node in ast.parse(file.read_text(encoding="utf-8")).body
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        assert found.isdisjoint((*LIBRARIES, "narwhals")), file


def test_a_frame_of_narwhals_is_that_of_its_library():
    schema = Schema.infer(nw.from_native(FRAME))
    assert schema == Schema.infer(FRAME)
    values, _ = schema.encode(nw.from_native(FRAME))
    assert values[:, 0].tolist() == [31.0, 45.0, 27.0, 60.0]
    assert np.isnan(values[1, 1])


@pytest.mark.parametrize("name", ["age", "city", "grade"])
def test_a_column_is_plain_data(name):
    column = Schema.infer(FRAME, KINDS)[name]
    data = column.to_dict()
    assert None not in data.values()
    assert Column.from_dict(data) == column
