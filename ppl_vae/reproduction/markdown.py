"""A reproduced table beside the published one, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from ppl_vae.reproduction.records import Record, Value
from ppl_vae.reproduction.table import Published, Row, Table

HEAD = ("row", "quantity", "published", "ours", "s.e.", "difference")


def markdown(table: Table, records: Sequence[Record]) -> str:
    """Return the table of all runs: a line for each row and quantity, measured or published.

    "ours" is the mean over seeds ± their standard deviation, "s.e." the standard error of one seed
    over the test data, and "difference" ours minus published. Rows that are compared have a line
    for the difference between them. A table without published numbers has a line for each row, and
    its quantities side by side: mean ± standard deviation over seeds, and the standard error in
    brackets.
    """
    groups = [
        (row, sorted(of_row, key=lambda r: r.seed))
        for row in table.rows
        for precision in dict.fromkeys(r.precision for r in records if r.row == row.name)
        if (of_row := [r for r in records if (r.row, r.precision) == (row.name, precision)])
        and any(record.quantities for record in of_row)
    ]
    if not groups:
        return f"Nothing of {table.name} has been run yet.\n"
    if any(row.published for row in table.rows):
        lines = [
            _line(HEAD),
            _rule(HEAD),
            *(li for row, found in groups for li in _long(row, found, table)),
        ]
    else:
        quantities = dict.fromkeys(q for _, found in groups for q in _by_name(found))
        head = ("row", *quantities)
        wide = (_wide(row, found, tuple(quantities)) for row, found in groups)
        lines = [_line(head), _rule(head), *wide]
    return "\n".join([*lines, "", *_below(table, records)]) + "\n"


def _long(row: Row, records: Sequence[Record], table: Table) -> list[str]:
    name = _name(row, records)
    lines = []
    # Nothing is compared with what a smoke run measures.
    known = {} if records[0].extent == "smoke" else _published(row, table)
    measured = _by_name(records)
    for quantity in [*(q for q in row.published if q in known and q not in measured), *measured]:
        values, errors = _split(measured.get(quantity, ()))
        published = known.get(quantity)
        cells = (
            name,
            quantity,
            "" if published is None else _number(published),
            _mean(values),
            f"{fmean(errors):.2f}" if errors else "",
            f"{fmean(values) - published.value:+.2f}" if published and values else "",
        )
        lines.append(_line(cells))
        name = ""  # said once
    return lines


def _wide(row: Row, records: Sequence[Record], quantities: Sequence[str]) -> str:
    measured = _by_name(records)
    cells = []
    for quantity in quantities:
        values, errors = _split(measured.get(quantity, ()))
        cells.append(_mean(values) + (f" ({fmean(errors):.2f})" if errors else ""))
    return _line((_name(row, records), *cells))


def _published(row: Row, table: Table) -> dict[str, Published]:
    """Return the numbers in print of a row, and by how much they differ from those of others."""
    known = dict(row.published)
    for other in table.rows:
        if other.name in row.against:
            for quantity, its in other.published.items():
                mine = row.published.get(quantity)
                if mine is not None and mine.source == its.source:
                    difference = Published(mine.value - its.value, source=mine.source)
                    known[_minus(quantity, other.name)] = difference
    return known


def _by_name(records: Sequence[Record]) -> dict[str, list[Value]]:
    """Return what was measured with each seed, by quantity, and after these the differences."""
    found: dict[str, list[Value]] = {}
    for record in records:
        for quantity, value in record.quantities.items():
            found.setdefault(quantity, []).append(value)
    for record in records:
        for other, differences in record.differences.items():
            for quantity, value in differences.items():
                found.setdefault(_minus(quantity, other), []).append(value)
    return found


def _minus(quantity: str, other: str) -> str:
    return f"{quantity} minus that of {other}"


def _name(row: Row, records: Sequence[Record]) -> str:
    """Return the first cell of a row: its name, how it was run, and how often."""
    precision, extent, seeds = records[0].precision, records[0].extent, len(records)
    name = row.name if precision == "32-true" else f"{row.name}, {precision}"
    if extent == "smoke" or (extent == "shortened" and row.shortened is not None):
        name += f" ({extent})"
    return f"{name}, {seeds} seed{'s' if seeds > 1 else ''}"


def _split(found: Sequence[Value]) -> tuple[list[float], list[float]]:
    """Return the values of a quantity by seed, and their standard errors where there are any."""
    values = [float(f["value"]) for f in found if f["value"] is not None]
    errors = [float(f["standard_error"]) for f in found if f["standard_error"] is not None]
    return values, errors


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _rule(cells: Sequence[str]) -> str:
    return f"|{'---|' * len(cells)}"


def _number(published: Published) -> str:
    spread = "" if published.spread is None else f" ± {published.spread:g}"
    return f"{published.value:g}{spread} [{published.source}]"


def _below(table: Table, records: Sequence[Record]) -> list[str]:
    """Return what is said below the table: protocol, sources, machine and time."""
    hours = sum(sum(record.seconds.values()) for record in records) / 3600
    machines = dict.fromkeys(_machine(record) for record in records)
    extents = {record.extent for record in records} - {"shortened"}
    flag = "".join(f" --{extent}" for extent in sorted(extents))
    different: dict[str, list[str]] = {}
    for row in table.rows:
        of_row = [r for r in records if r.row == row.name]
        shortened = row.shortened if any(r.extent == "shortened" for r in of_row) else None
        if of_row and (differs := "; ".join(filter(None, (shortened, row.whole)))):
            different.setdefault(differs, []).append(row.name)
    run = {record.row for record in records}
    said = [table.protocol]
    for differs, names in different.items():
        whom = "All rows" if run == set(names) and len(names) > 1 else "; ".join(names)
        said.append(f"{whom}: {differs}.")
    sources = "; ".join(f"[{key}] {source}" for key, source in table.sources.items())
    return [
        " ".join(said),
        "",
        *([f"Sources: {sources}.", ""] if sources else []),
        f"`ppl-vae reproduce {table.name}{flag}`, {hours:.1f} hours of wall time in all on "
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
