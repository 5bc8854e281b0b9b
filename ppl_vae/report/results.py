"""The result of a report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ppl_vae.ascii import for_stdout
from ppl_vae.report.page import render

HEADLINE = re.compile(r"NELBO|KL|Reconstruction|IS-\d+|active units.*|accuracy of q\(y\|x\)")
"""Labels of the numbers that a notebook shows."""


@dataclass(frozen=True, repr=False)
class Report:
    """A report that was written; ``print`` shows its table, a notebook its headline numbers.

    Args:
        page: path of the HTML page.
        numbers: path of the JSON file.
        results: the content of the JSON file.
    """

    page: Path
    numbers: Path
    results: dict[str, Any]

    @property
    def warnings(self) -> list[str]:
        """All warnings, after the name of the pair that they are about."""
        pairs = self.results["pairs"].items()
        own = [f"{name}: {text}" for name, pair in pairs for text in pair["warnings"]]
        return [*self.results["warnings"], *own]

    @property
    def verdicts(self) -> list[str]:
        """What the sections that were asked for say, after the name of the pair."""
        return [
            f"{name}, {what}: {verdict}"
            for name, pair in self.results["pairs"].items()
            for what, verdict in pair["verdicts"].items()
        ]

    def __repr__(self) -> str:
        return f"Report({str(self.page)!r}, pairs={list(self.results['pairs'])})"

    def __str__(self) -> str:
        """Return the table, one column per pair, the verdicts of sections, and the warnings."""
        lines = [["nats per datum", *self._tables()]]
        lines += [[label, *cells] for label, cells in self._rows()]
        return self._printed([*aligned(lines), *self.verdicts])

    def _repr_html_(self) -> str:
        return render(
            "summary.html",
            page=quote(self.page.as_posix()),
            numbers=quote(self.numbers.as_posix()),
            sentences=self.verdicts,
            heading="nats per datum",
            names=list(self._tables()),
            rows=[row for row in self._rows() if HEADLINE.fullmatch(row[0])],
            warnings=self.warnings,
        )

    def _printed(self, lines: list[str]) -> str:
        return for_stdout("\n".join([*lines, *(f"warning: {text}" for text in self.warnings)]))

    def _tables(self) -> dict[str, dict[str, Any]]:
        """Return the quantities of each pair."""
        return {name: pair["quantities"] for name, pair in self.results["pairs"].items()}

    def _rows(self) -> list[tuple[str, list[str]]]:
        """Return each label with the numbers of all pairs as text."""
        tables = list(self._tables().values())
        labels = dict.fromkeys(label for table in tables for label in table)
        return [(k, [table[k]["text"] if k in table else "" for table in tables]) for k in labels]


@dataclass(frozen=True, repr=False)
class TableReport(Report):
    """A report on a table that was written; ``print`` shows what it says in short."""

    @property
    def warnings(self) -> list[str]:
        """All warnings."""
        return list(self.results["warnings"])

    @property
    def verdicts(self) -> list[str]:
        """The summary."""
        return list(self.results["summary"])

    def __repr__(self) -> str:
        return f"TableReport({str(self.page)!r}, columns={list(self.results['columns'])})"

    def __str__(self) -> str:
        """Return the summary, the numbers per row, and the warnings."""
        rows = [[label, *cells] for label, cells in self._rows()]
        return self._printed([*self.verdicts, *aligned(rows)])

    def _repr_html_(self) -> str:
        return render(
            "summary.html",
            page=quote(self.page.as_posix()),
            numbers=quote(self.numbers.as_posix()),
            sentences=self.verdicts,
            heading="per row",
            names=[""],
            rows=self._rows(),
            warnings=self.warnings,
        )

    def _tables(self) -> dict[str, dict[str, Any]]:
        return {"": self.results["quantities"]}


def aligned(lines: list[list[str]]) -> list[str]:
    """Return lines of cells as text, with columns below one another."""
    widths = [max(map(len, column)) + 2 for column in zip(*lines, strict=True)]
    return [
        "".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
