"""The page of results has the tables of the committed records, and nothing else."""

import re
from pathlib import Path

import pytest

from ppl_vae.reproduction import TABLES, loaded, markdown

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "results.md"
COMMITTED = sorted(file.stem for file in (DOCS / "results").glob("*.json"))


def on_the_page():
    """Return the tables of the page by name: what is between the markers."""
    found = re.findall(r"<!-- reproduce (\S+) -->\n(.*?)<!-- end -->", PAGE.read_text(), re.DOTALL)
    return dict(found)


def test_every_committed_table_is_on_the_page():
    assert sorted(on_the_page()) == COMMITTED
    assert set(COMMITTED) <= set(TABLES)


@pytest.mark.parametrize("name", COMMITTED)
def test_the_page_has_what_the_records_give(name):
    records = loaded((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))
    assert all(record.extent != "smoke" for record in records)
    assert on_the_page()[name].strip() == markdown(TABLES[name], records).strip()


@pytest.mark.parametrize("name", COMMITTED)
def test_what_is_published_is_measured(name):
    rows = {row.name: row for row in TABLES[name].rows}
    for record in loaded((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8")):
        assert record.table == name
        # A shortened row may have fewer samples of log p(x).
        shortened = (
            {"IS-5000"}
            if record.extent == "shortened" and "IS-1000" in record.quantities
            else set()
        )
        assert set(rows[record.row].published) - shortened <= set(record.quantities)
