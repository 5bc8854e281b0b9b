"""A table that is filled in keeps the fields of its CSV file, whichever library read it."""

import csv

import pytest

from ppl_vae import tables
from ppl_vae.tables import files
from ppl_vae.tables.fields import fields_of, with_fields

HEAD = "yes,n,code,price,whole,name"
ROWS = [
    'true,1,007,1.50,-2,"Doe, J."',
    ',NA,011,1e3,,"say ""hi"""',
    "true,0,,,12,",
    "true,1,007,0.10,-0,x",
]
FILLED = [
    'true,1,007,1.50,-2,"Doe, J."',
    'false,1,011,1e3,3,"say ""hi"""',
    "true,0,007,2.5,12,x",
    "true,1,007,0.10,-0,x",
]
KINDS = {
    "yes": tables.Column("yes", "binary", categories=(False, True)),
    "n": "binary",
    "code": tables.Column("code", "ordinal", categories=("007", "011")),
    "price": "positive",
    "whole": "real",
    "name": "categorical",
}


@pytest.fixture(params=["pandas", "polars"], autouse=True)
def backend(request, monkeypatch):
    monkeypatch.setattr(files, "_backend", lambda owner: request.param)
    return request.param


def filled(folder, lines, kinds, guesses, learned=None):
    """Write lines as a file, fill missing cells with a number for each column, and read it.

    The schema is that of the file, or of the lines that it is ``learned`` from.
    """
    file = folder / "table.csv"
    file.write_text("\n".join([*(learned or lines), ""]))
    schema = tables.Schema.infer(tables.read_table(file, kinds), kinds)
    file.write_text("\n".join([*lines, ""]))
    frame = schema.read(file)
    values, mask = schema.encode(frame)
    for j, value in enumerate(guesses):
        values[~mask[:, j], j] = value
    table = with_fields(schema.decode(values, like=frame), frame, fields_of(file), schema)
    tables.write_table(table, folder / "filled.csv")
    with open(folder / "filled.csv", newline="") as written:
        return list(csv.reader(written))


def test_only_missing_fields_change(tmp_path):
    found = filled(tmp_path, [HEAD, *ROWS], KINDS, [0, 1, 0, 2.5, 3, 2])
    assert float(found[2][4]) == 3  # polars reads the column as integers, pandas as floats
    found[2][4] = "3"
    assert found == list(csv.reader([HEAD, *FILLED]))


def test_what_is_filled_in_is_spelled_as_in_the_column(tmp_path):
    lines = ["n,count,flag", "1.0,3.0,true", ",,", "0.0,12.0,true"]
    flag = tables.Column("flag", "binary", categories=(False, True))
    kinds = {"n": "binary", "count": "count", "flag": flag}
    found = filled(tmp_path, lines, kinds, [1, 7, 0])
    assert found[2] == ["1.0", "7.0", "false"]
    lines = ["n,count,flag", "1,3,true", ",,", "0,12,true"]
    assert filled(tmp_path, lines, kinds, [1, 7, 0])[2] == ["1", "7", "false"]
    lines, learned = ["a,n", "1,", "2,"], ["a,n", "1,3", "2,4"]
    assert filled(tmp_path, lines, {"n": "count"}, [0, 7], learned)[1] == ["1", "7"]


@pytest.mark.parametrize(("field", "written"), [("TRUE", "FALSE"), ("True", "False")])
def test_bools_have_the_case_of_the_others(tmp_path, field, written, backend):
    if backend == "polars":
        pytest.skip("polars reads only true and false as bools")
    kinds = {"flag": tables.Column("flag", "binary", categories=(False, True))}
    assert filled(tmp_path, ["flag", field, "NA", field], kinds, [0])[2] == [written]


def test_missing_cells_alone_in_their_rows(tmp_path):
    file = tmp_path / "one.csv"
    file.write_bytes(b"\xef\xbb\xbfa\r\n1.50\r\n\r\n2\r\n")  # as spreadsheets write it
    assert fields_of(file) == {"a": ["1.50", "", "2"]}
    assert filled(tmp_path, ["a", "1.50", "", "2"], {"a": "positive"}, [4]) == [
        ["a"],
        ["1.50"],
        ["4.0"],
        ["2"],
    ]
