"""Records of what was run, as JSON: one file for each run, and one of all."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ppl_vae.evaluation import Estimate
from ppl_vae.io.atomic import write_file

FILE = "record.json"

Value = dict[str, float | None]
"""A value and its standard error, ``{"value": ..., "standard_error": ...}``."""


@dataclass(kw_only=True)
class Record:
    """What was measured of a row with one seed.

    Args:
        table, row, seed, precision: what was run.
        extent: how much of the row's protocol: ``"whole"``, ``"shortened"`` or ``"smoke"``.
        quantities: name -> value and standard error over test data, None if there is none.
        differences: other row -> quantity -> that of this row minus that of the other.
        seconds: wall time of the training, and of each measurement of the row, which may bring
            several quantities, once it is finished. Of an attempt that was killed without notice
            the time since its start is not counted.
        environments: what code ran it, how and where: one, or several if it was interrupted, and
            went on under another.
    """

    table: str
    row: str
    seed: int
    extent: str
    precision: str
    quantities: dict[str, Value] = field(default_factory=dict)
    differences: dict[str, dict[str, Value]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    environments: list[dict[str, Any]] = field(default_factory=list)

    def add(self, measured: Iterable[tuple[str, Estimate]]) -> None:
        """Add quantities."""
        for name, estimate in measured:
            self.quantities[name] = _value(estimate)

    def add_difference(self, other: str, quantity: str, estimate: Estimate) -> None:
        """Add by how much a quantity of this row is above that of another."""
        self.differences.setdefault(other, {})[quantity] = _value(estimate)

    def write(self, folder: Path) -> None:
        """Write the record into the folder of its run."""
        write_file(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")


def _value(estimate: Estimate) -> Value:
    error = estimate.standard_error
    return {"value": estimate.mean, "standard_error": None if math.isnan(error) else error}


def folder_of(out: Path, row: str, seed: int, precision: str) -> Path:
    """Return the folder of a run."""
    name = slug(row)
    return out / (name if precision == "32-true" else f"{name}-{precision}") / f"seed-{seed}"


def slug(row: str) -> str:
    """Return the name of a row as that of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-")


def read(folder: Path) -> Record | None:
    """Return the record of a run, if there is one."""
    file = folder / FILE
    return _read(file) if file.exists() else None


def read_all(out: Path) -> list[Record]:
    """Return the records of all runs in a folder."""
    return [_read(file) for file in sorted(out.glob(f"*/seed-*/{FILE}"))]


def _read(file: Path) -> Record:
    try:
        return Record(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"reproduce: {file} is not a record of this version ({error});\n"
            f"remove {file.parent} to run it again, or give another out="
        ) from error


def dumped(name: str, records: Sequence[Record]) -> str:
    """Return the JSON of a table."""
    return json.dumps({"table": name, "runs": [asdict(r) for r in records]}, indent=1) + "\n"


def loaded(text: str) -> list[Record]:
    """Return the records in the JSON of a table."""
    return [Record(**run) for run in json.loads(text)["runs"]]
