"""A training step, and an evaluation, in ppl_vae, by hand and in other libraries, side by side.

    .venv/bin/python benchmarks/steps.py

runs all rows, prints a table and writes ``steps.json``, ``steps.md`` and ``steps.png`` under
``benchmarks/results``. The columns of a row start from the same weights, see the same images (by
index, binarised anew at each step) and take turns, each in a process of its own that sleeps while
another works. Whether they compute the same thing is seen twice: before, in other processes, with
weights that stay where they start, where losses have to be the same within their standard errors,
and coarsely while they train. A row whose columns do not have the same loss is not printed, and the
command ends with status 1. Rows that are not asked for stay as they are in ``steps.json``, if the
settings there are the same. docs/speed.md says more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import measure
import processes
from columns import (
    COLUMNS,
    Options,
    load_problem,
    make_column,
    prepare,
    save_problem,
    without,
)
from matplotlib import pyplot as plt
from rows import ROWS

RESULTS = Path(__file__).parent / "results"
REFERENCES = [name for name, entry in COLUMNS.items() if entry.reference]
NO_TENSORS_OF_TORCH = ("numpyro", "pythae")
"""Columns of which no memory is measured."""
DIAGNOSTIC = ("products", "hand-float32", "hand-mapped", "hand-densities")
"""Columns that the README does without."""


def measure_row(
    name: str, columns: tuple[str, ...], options: Options, path: Path
) -> dict[str, Any]:
    """Return what is found about a row: whether the columns have one loss, and then their times.

    Args:
        name: of the row.
        columns: those wanted.
        options: what processes are told.
        path: where the problem is written for all of them.
    """
    rounding = measure.in_subprocess(save_problem, name, options, path)
    compared = tuple(column for column in columns if COLUMNS[column].losses)
    rest = at_rest(compared, options, path, rounding)
    row: dict[str, Any] = {"refused": rest["refused"], "absent": {}}
    if not rest["refused"]:
        # In other processes again: what is compiled twice in one is slower for it.
        there = tuple(c for c in columns if c in rest["columns"] or c not in compared)
        row = time_row(there, options, path)
    absent = rest["absent"] | row["absent"]
    return {**row, "absent": absent, "at rest": rest["columns"], "rounding": rounding}


def at_rest(
    columns: tuple[str, ...], options: Options, path: Path, rounding: float
) -> dict[str, Any]:
    """Return the losses of a row at fixed weights."""
    with _started(columns, options, path, rest=True) as (ready, absent):
        if not ready:
            return {"refused": [], "absent": absent, "columns": {}}
        given = load_problem(path).at_rest()
        rounded = {column: rounding for column in ready if COLUMNS[column].rounding}
        reference = _references(ready)[0]
        found, wrong = measure.at_rest(
            ready, given, reference, options.errors, options.seed, rounded
        )
    return {
        "refused": [f"at fixed weights, {sentence}" for sentence in wrong],
        "absent": absent,
        "columns": {column: agreement._asdict() for column, agreement in found.items()},
    }


def time_row(columns: tuple[str, ...], options: Options, path: Path) -> dict[str, Any]:
    """Return the times of a row."""
    with _started(columns, options, path) as (ready, absent):
        given = load_problem(path)
        turns = measure.take_turns(ready, given, options.rounds, options.seed)
        asleep = {column: remote.asleep() for column, remote in ready.items()}
    references = _references(ready)
    compared = {column: turn for column, turn in turns.items() if COLUMNS[column].losses}
    wrong = measure.disagreements(compared, references[0], options.errors) if references else []
    if wrong:
        return {"refused": [f"as they train, {sentence}" for sentence in wrong], "absent": absent}
    found = {column: measure.spread(turn.seconds) for column, turn in turns.items()}
    best = min(references, key=lambda column: found[column].median, default=None)
    limit = found["products"].median if "products" in found else None
    return {
        "best": best,
        "absent": absent,
        "columns": {
            column: {
                "milliseconds": {k: 1e3 * v for k, v in times._asdict().items()},
                "ratio": times.median / found[best].median if best else None,
                "products": limit / times.median if limit else None,
                "asleep": asleep[column],
                "loss": _mean(turns[column].losses),
                "steps": options.rounds * given.row.turn,
            }
            for column, times in found.items()
        },
    }


def measure_memory(column: str, options: Options, path: Path) -> dict[str, float] | None:
    """Return the memory of one column of a row; to be called in a process of its own."""
    make, given = prepare(column, path, options)
    return measure.memory(make, given, options.seed)


def markdown(results: dict[str, Any]) -> str:
    """Return the tables."""
    rows = {name: row for name, row in results["rows"].items() if "columns" in row}
    used = [c for c in COLUMNS if any(c in row["columns"] for row in rows.values())]
    heads = (
        "| |" + "".join(f" {COLUMNS[c].label} |" for c in used) + "\n|" + "---|" * (len(used) + 1)
    )
    machine = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    turns = " or ".join(map(str, sorted({row["rounds"] for row in results["rows"].values()})))
    lines = [
        f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores; {packages}; "
        f"seed {results['seed']}; {turns} turns each.",
        "",
        "Milliseconds per step, median [quartiles], the ratio to the best hand-written one, and in "
        "brackets the share that the matrix products alone would take:",
        "",
        heads,
    ]
    lines += _lines(rows, used, _time)
    if any("memory" in c for row in rows.values() for c in row["columns"].values()):
        lines += [
            "",
            "Peak MB of tensors, the ratio to the least of a hand-written one (and the rise of the "
            "resident set):",
            "",
        ]
        held = {n: r for n, r in rows.items() if any("memory" in c for c in r["columns"].values())}
        lines += [heads, *_lines(held, used, _memory)]
    lines += [""]
    for name, row in results["rows"].items():
        lines += [f"- {name} refused: {reason}" for reason in row.get("refused", ())]
        lines += [
            f"- {name}, {COLUMNS[column].label}: {reason}"
            for column, reason in row["absent"].items()
        ]
    return "\n".join(lines).rstrip() + "\n"


def short(results: dict[str, Any]) -> str:
    """Return the table of the README: ratios alone."""
    rows = {name: row for name, row in results["rows"].items() if "columns" in row}
    used = [c for c in COLUMNS if any(c in row["columns"] for row in rows.values())]
    used = sorted((c for c in used if c not in DIAGNOSTIC), key=lambda c: not c.startswith("ours"))
    lines = ["| | best by hand |" + "".join(f" {COLUMNS[c].label} |" for c in used)]
    lines.append("|---" * (len(used) + 2) + "|")
    for name, row in rows.items():
        columns = row["columns"]
        best = columns[row["best"]]["milliseconds"]["median"]
        cells = [f"{columns[c]['ratio']:.2f}" if c in columns else "" for c in used]
        lines.append(f"| {name} | {best:.3g} ms | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Any]) -> plt.Figure:
    """Return the picture of the ratios."""
    rows = {name: row["columns"] for name, row in results["rows"].items() if "columns" in row}
    used = [c for c in COLUMNS if any(c in row for row in rows.values())]
    figure, ax = plt.subplots(figsize=(9, 1 + 0.1 * len(used) * len(rows)), layout="constrained")
    width = 0.85 / max(1, len(used))
    for k, column in enumerate(used):
        at = [i + (k + 0.5) * width - 0.425 for i, row in enumerate(rows.values()) if column in row]
        ratios = [row[column]["ratio"] for row in rows.values() if column in row]
        own = column.startswith("ours")
        ax.barh(
            at,
            # A logarithmic axis has no zero for bars to begin at: they begin at 1, the best.
            [ratio - 1 for ratio in ratios],
            width * 0.9,
            left=1,
            color=f"C{k}",
            alpha=1 if own else 0.55,
            label=COLUMNS[column].label,
        )
        for y, ratio in zip(at, ratios, strict=True):
            side = {"ha": "left"} if ratio >= 1 else {"ha": "right"}
            ax.annotate(f"{ratio:.2f}", (ratio, y), va="center", fontsize=5.5, **side)
    ax.axvline(1, color="0.3", linewidth=0.8)
    ax.set(xscale="log", xlabel="time per step, in units of the best hand-written version's")
    ax.set_xticks(ticks := [0.1, 0.2, 0.5, 1, 2, 5, 10], [f"{t:g}" for t in ticks])
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()
    ax.margins(y=0.01)
    ax.legend(fontsize=8)
    return figure


def main() -> int:
    """Run the command."""
    flags = _flags()
    options = Options(flags.rounds, flags.seed, flags.threads, flags.errors, flags.tiny)
    flags.out.mkdir(parents=True, exist_ok=True)
    settings = {
        "machine": measure.machine(flags.threads),
        "seed": flags.seed,
        "tiny": flags.tiny,
    }
    results: dict[str, Any] = settings | {"rows": _other_rows(flags.out / "steps.json", settings)}
    for name in flags.rows:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "problem.pt"
            row = measure_row(name, tuple(flags.columns), options, path)
            if flags.memory:
                for column, found in row.get("columns", {}).items():
                    if column not in NO_TENSORS_OF_TORCH and COLUMNS[column].losses:
                        found["memory"] = measure.in_subprocess(
                            measure_memory, column, options, path
                        )
                _compare_memory(row)
        row["rounds"] = flags.rounds
        results["rows"][name] = row
        results["rows"] = {name: results["rows"][name] for name in ROWS if name in results["rows"]}
        # What is known is kept, should the next row not come to its end.
        (flags.out / "steps.json").write_text(json.dumps(results, indent=1) + "\n")
    table = markdown(results)
    (flags.out / "steps.md").write_text(table)
    if any("columns" in row for row in results["rows"].values()):
        draw(results).savefig(flags.out / "steps.png", dpi=120)
    print(table)
    print(f"wrote steps.json, steps.md and steps.png to {flags.out}", file=sys.stderr)
    return int(any("refused" in row for row in results["rows"].values()))


def _other_rows(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the rows of an earlier run with the same settings."""
    if not path.exists():
        return {}
    earlier: dict[str, Any] = json.loads(path.read_text())
    return earlier["rows"] if all(earlier[k] == settings[k] for k in settings) else {}


@contextmanager
def _started(
    columns: tuple[str, ...], options: Options, path: Path, *, rest: bool = False
) -> Iterator[tuple[dict[str, processes.Remote], dict[str, str]]]:
    """Have the columns' processes, and why there are no others."""

    def remote(column: str) -> processes.Remote:
        arguments = (column, path, options, rest)
        return processes.Remote(make_column, *arguments, without=without(column))

    made = {column: partial(remote, column) for column in columns}
    with processes.started(made, os.cpu_count() or 1) as found:
        yield found


def _references(ready: Iterable[str]) -> list[str]:
    """Return the columns that ratios are to; losses are compared with the first one's."""
    return [c for c in ready if COLUMNS[c].reference] or [c for c in ready if COLUMNS[c].losses][:1]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _compare_memory(row: dict[str, Any]) -> None:
    """Add the ratio to the least of a hand-written version, for what is made of torch's tensors."""
    found = {n: c["memory"] for n, c in row.get("columns", {}).items() if c.get("memory")}
    by_hand = [found[name]["tensors"] for name in REFERENCES if name in found]
    for held in found.values():
        if by_hand:
            held["ratio"] = held["tensors"] / min(by_hand)


def _lines(rows: dict[str, Any], used: list[str], cell: Callable[[dict], str]) -> list[str]:
    return [
        f"| {name} |" + "".join(f" {cell(row['columns'].get(c, {}))} |" for c in used)
        for name, row in rows.items()
    ]


def _time(found: dict[str, Any]) -> str:
    if not found:
        return ""
    middle, low, high = (f"{v:.3g}" for v in found["milliseconds"].values())
    cell = f"{middle} [{low}, {high}]"
    if found.get("ratio") is not None:
        cell += f" ×{found['ratio']:.2f}"  # noqa: RUF001
    if found.get("products") is not None:
        cell += f" ({found['products']:.2f})"
    return cell


def _memory(found: dict[str, Any]) -> str:
    held = found.get("memory")
    if not held:
        return ""
    tensors = ""
    if "ratio" in held:
        tensors = f"{held['tensors']:.3g} ×{held['ratio']:.2f} "  # noqa: RUF001
    return f"{tensors}({held['resident']:.0f})"


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    add(
        "--columns",
        nargs="+",
        choices=COLUMNS,
        default=list(COLUMNS),
        metavar="COLUMN",
        help=", ".join(COLUMNS),
    )
    add("--rounds", type=_positive, default=40, help="turns of each column")
    add("--threads", type=_positive, default=2)
    add("--seed", type=int, default=0)
    add("--errors", type=float, default=6.0, help="standard errors that losses may differ by")
    add("--tiny", action="store_true", help="sizes that take no time, to see that it runs")
    add("--memory", action=argparse.BooleanOptionalAction, default=True)
    add("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
