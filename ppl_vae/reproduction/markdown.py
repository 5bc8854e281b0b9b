"""A reproduced table beside the published one, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from ppl_vae.reproduction.records import Record
from ppl_vae.reproduction.table import Published, Row, Table

HEAD = ("row", "quantity", "published", "ours", "s.e.", "difference")


def markdown(table: Table, records: Sequence[Record]) -> str:
    """Return the table of all runs: a line for each row and quantity.

    "ours" is the mean over seeds ± their standard deviation, "s.e." the standard error of one seed
    over the test data, and "difference" ours minus published.
    """
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for row in table.rows:
        for precision in dict.fromkeys(r.precision for r in records if r.row == row.name):
            of_row = [r for r in records if (r.row, r.precision) == (row.name, precision)]
            lines += _lines(row, sorted(of_row, key=lambda r: r.seed), precision)
    if len(lines) == 2:
        return f"Nothing of {table.name} has been run yet.\n"
    return "\n".join([*lines, "", *_below(table, records)]) + "\n"


def _lines(row: Row, records: Sequence[Record], precision: str) -> list[str]:
    name = row.name if precision == "32-true" else f"{row.name}, {precision}"
    extent = records[0].extent
    if extent == "smoke" or (extent == "shortened" and row.shortened is not None):
        name += f" ({extent})"
    name += f", {len(records)} seed{'s' if len(records) > 1 else ''}"
    lines = []
    for quantity in dict.fromkeys(q for record in records for q in record.quantities):
        found = [r.quantities[quantity] for r in records if quantity in r.quantities]
        values = [f["value"] for f in found if f["value"] is not None]
        errors = [f["standard_error"] for f in found if f["standard_error"] is not None]
        mean = fmean(values)
        # Nothing is compared with what a smoke run measures.
        published = None if records[0].extent == "smoke" else row.published.get(quantity)
        cells = [
            name,
            quantity,
            "" if published is None else _number(published),
            f"{mean:.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else ""),
            f"{fmean(errors):.2f}" if errors else "",
            "" if published is None else f"{mean - published.value:+.2f}",
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        name = ""  # said once
    return lines


def _number(published: Published) -> str:
    spread = "" if published.spread is None else f" ± {published.spread:g}"
    return f"{published.value:g}{spread} [{published.source}]"


def _below(table: Table, records: Sequence[Record]) -> list[str]:
    """Return what is said below the table: protocol, sources, machine and time."""
    hours = sum(sum(record.seconds.values()) for record in records) / 3600
    machines = dict.fromkeys(_machine(record) for record in records)
    said = [table.protocol]
    for row in table.rows:
        of_row = [r for r in records if r.row == row.name]
        differs = row.shortened if any(r.extent == "shortened" for r in of_row) else None
        if of_row and (differs or row.whole):
            said.append(f"{row.name}: {'; '.join(filter(None, (differs, row.whole)))}.")
    sources = "; ".join(f"[{key}] {source}" for key, source in table.sources.items())
    return [
        " ".join(said),
        "",
        f"Sources: {sources}.",
        "",
        f"`ppl-vae reproduce {table.name}`, {hours:.1f} hours of wall time in all on "
        f"{'; '.join(machines)}.",
    ]


def _machine(record: Record) -> str:
    of = record.machine
    threads = of.get("threads", 1)
    words = [of.get("gpu") or of.get("processor", "an unknown processor")]
    words.append(f"{threads} thread{'s' if threads > 1 else ''}")
    versions = of.get("packages", {})
    words += [f"{name} {versions[name]}" for name in ("torch",) if name in versions]
    return ", ".join(words)
