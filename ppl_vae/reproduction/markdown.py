"""A reproduced table beside the published one, in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from ppl_vae.reproduction.records import Record, Value
from ppl_vae.reproduction.table import Published, Row, Table

HEAD = ("row", "quantity", "published", "ours", "s.e.", "difference")


def markdown(table: Table, records: Sequence[Record]) -> str:
    """Return the table of all runs: a line for each row and quantity, measured or published.

    "ours" is the mean over seeds ± their standard deviation, "s.e." the standard error of one seed
    over the test data, and "difference" ours minus published. Rows that are compared have a line
    for the difference between them. A table without published numbers has a line for each row, and
    its quantities side by side: mean ± standard deviation over seeds, and the standard error in
    brackets. What was not measured with all seeds of a row says with how many.
    """
    names = {row.name for row in table.rows}
    records = [record for record in records if record.row in names]
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
        published = known.get(quantity, ())
        some = values and len(values) < len(records)
        differences = [fmean(values) - float(p.value) for p in published if values]
        cells = (
            name,
            f"{quantity}, {_seeds(len(values))}" if some else quantity,
            "; ".join(_number(p) for p in published),
            _mean(values, errors),
            f"{fmean(errors):.2f}" if errors else "",
            "; ".join(_signed(d, 0 if _is_count(values, errors) else 2) for d in differences),
        )
        lines.append(_line(cells))
        name = ""  # said once
    return lines


def _wide(row: Row, records: Sequence[Record], quantities: Sequence[str]) -> str:
    measured = _by_name(records)
    cells = []
    for quantity in quantities:
        values, errors = _split(measured.get(quantity, ()))
        cell = _mean(values, errors) + (f" ({fmean(errors):.2f})" if errors else "")
        cells.append(cell + f", {_seeds(len(values))}" if 0 < len(values) < len(records) else cell)
    return _line((_name(row, records), *cells))


def _published(row: Row, table: Table) -> dict[str, Sequence[Published]]:
    """Return the numbers in print of a row, and by how much they differ from those of others."""
    known = dict(row.published)
    for other in table.rows:
        if other.name in row.against:
            for quantity, mine in row.published.items():
                its = {p.source: p for p in other.published.get(quantity, ())}
                differences = [p.minus(its[p.source]) for p in mine if p.source in its]
                known[_minus(quantity, other.name)] = differences
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
    precision, extent = records[0].precision, records[0].extent
    name = row.name if precision == "32-true" else f"{row.name}, {precision}"
    if extent != "whole":
        name += f" ({extent})"
    return f"{name}, {_seeds(len(records))}"


def _seeds(number: int) -> str:
    return "1 seed" if number == 1 else f"{number} seeds"


def _split(found: Sequence[Value]) -> tuple[list[float], list[float]]:
    """Return the values of a quantity by seed, and their standard errors where there are any."""
    values = [float(f["value"]) for f in found if f["value"] is not None]
    errors = [float(f["standard_error"]) for f in found if f["standard_error"] is not None]
    return values, errors


def _mean(values: Sequence[float], errors: Sequence[float]) -> str:
    if not values:
        return ""
    if _is_count(values, errors):
        return f"{values[0]:.0f}"
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _is_count(values: Sequence[float], errors: Sequence[float]) -> bool:
    """Return whether a quantity is one number without an error, as of active units, and whole."""
    return len(values) == 1 and not errors and values[0].is_integer()


def _signed(value: float, places: int) -> str:
    return f"{round(value, places) + 0.0:+.{places}f}"  # 0.0 takes the sign off a zero


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _rule(cells: Sequence[str]) -> str:
    return f"|{'---|' * len(cells)}"


def _number(published: Published) -> str:
    spread = "" if published.spread is None else f" ± {published.spread}"
    return f"{published.value}{spread} [{published.source}]"


def _below(table: Table, records: Sequence[Record]) -> list[str]:
    """Return what is said below the table: protocol, sources, what is missing, how it was run."""
    hours = sum(sum(record.seconds.values()) for record in records) / 3600
    machines = dict.fromkeys(_machine(e) for record in records for e in record.environments)
    different: dict[str, list[str]] = {}
    for row in table.rows:
        of_row = [r for r in records if r.row == row.name]
        shortened = row.shortened if any(r.extent == "shortened" for r in of_row) else None
        if of_row and (differs := "; ".join(filter(None, (shortened, row.deviation)))):
            different.setdefault(differs, []).append(row.name)
    run = {record.row for record in records}
    said = [table.protocol]
    if any(record.extent == "smoke" for record in records):
        said.insert(0, "A smoke run: bundled digits, a few steps, few draws. What it stands for:")
    for differs, names in different.items():
        said.append(f"{_whom(names, run)}: {differs}.")
    sources = "; ".join(f"[{key}] {source}" for key, source in table.sources.items())
    missing = "; ".join(row.name for row in table.rows if row.name not in run)
    return [
        " ".join(said),
        "",
        *([f"Sources: {sources}.", ""] if sources else []),
        *([f"Not run yet: {missing}.", ""] if missing else []),
        f"{_commands(table, records)}, {hours:.1f} hours of wall time in all on "
        f"{'; '.join(machines)}.",
    ]


def _whom(names: Sequence[str], run: Collection[str]) -> str:
    """Return rows in words: all, all whose names start alike, or by their names."""
    if len(names) > 1:
        start = names[0].partition(", ")[0]
        if set(names) == set(run):
            return "All rows"
        if set(names) == {name for name in run if name.startswith(f"{start}, ")}:
            return f"{start.capitalize()}, all rows"
    return "; ".join(names)


def _commands(table: Table, records: Sequence[Record]) -> str:
    """Return the command that brings the table; of rows in several precisions, one for each.

    Where the command would run more than has been run, it says so.
    """
    can_be_shortened = {row.name for row in table.rows if row.shortened is not None}
    commands = []
    for precision in dict.fromkeys(record.precision for record in records):
        of_it = [record for record in records if record.precision == precision]
        words = [f"ppl-vae reproduce {table.name}"]
        seeds = 1 + max(record.seed for record in of_it)
        words.append(f"--seeds {seeds}")
        if any(record.extent == "smoke" for record in of_it):
            words.append("--smoke")
        if any(record.extent == "whole" and record.row in can_be_shortened for record in of_it):
            words.append("--whole")
        if precision != "32-true":
            words.append(f"--precision {precision}")
        runs = len(table.rows) * seeds
        some = "" if len(of_it) == runs else f" ({len(of_it)} of its {runs} runs)"
        commands.append(f"`{' '.join(words)}`{some}")
    return " and ".join(commands)


def _machine(of: Mapping[str, Any]) -> str:
    threads = of.get("threads", 1)
    words = [of.get("gpu") or of.get("processor", "an unknown processor")]
    words.append(f"{threads} thread{'s' if threads > 1 else ''}")
    versions = of.get("packages", {})
    words += [f"{name} {versions[name]}" for name in ("torch",) if name in versions]
    return ", ".join(words)
