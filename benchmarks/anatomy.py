"""Where the time of a training step goes.

    .venv/bin/python benchmarks/anatomy.py

takes a row of the benchmark and divides each column's step into kinds of tensor operations, by
torch's profiler, and the rest, which is Python and what calls the operations: effect handlers,
autograd, the making of distributions. Writes ``anatomy.json`` and ``anatomy.png`` under
``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import measure
import torch
from columns import COLUMNS, Options, prepare, save_problem
from matplotlib import pyplot as plt
from rows import ROWS
from torch._inductor import config as inductor

RESULTS = Path(__file__).parent / "results"
SHOWN = ("pyro", "ours", "hand", "hand-compiled", "ours-compiled")
KINDS = {
    "matrix products": ("addmm", "aten::mm", "bmm", "linear"),
    "random numbers": ("bernoulli", "normal_", "randn", "rand"),
}
OPTIMIZER, OTHER, REST = "optimiser", "other tensor operations", "Python, handlers, dispatch"
ALL = (*KINDS, OPTIMIZER, OTHER, REST)
STEP = "a step"
TURNS = 20


def breakdown(column: str, options: Options, path: Path, steps: int) -> dict[str, float]:
    """Return the milliseconds of each kind, and of the rest; to be called in its own process."""
    inductor.cpp.enable_kernel_profile = True
    make, given = prepare(column, path, options)
    run = make().run
    generator = torch.Generator().manual_seed(0)
    run(given.batches(20, generator))
    seconds: list[float] = []
    for index in given.batches(steps, generator):
        start = time.perf_counter()
        run(index[None])
        seconds.append(time.perf_counter() - start)
    # Few steps at a time: in one long profile matrix products have taken up to half as long again.
    profiled: list[Counter[str]] = []
    for _ in range(TURNS):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for index in given.batches(steps // TURNS, generator):
                with torch.profiler.record_function(STEP):
                    run(index[None])
        profiled += by_step(profile.events())
    found = {kind: median(step[kind] for step in profiled) for kind in ALL[:-1]}
    return {**found, REST: 1e3 * median(seconds) - sum(found.values())}


def by_step(events: Iterable[Any]) -> list[Counter[str]]:
    """Return the milliseconds of each kind in each step."""
    steps: dict[int, Counter[str]] = defaultdict(Counter)
    for event in events:
        above = _ancestors(event)
        kind = _kind(event, above)
        if above[-1].name == STEP and kind is not None:
            steps[above[-1].id][kind] += event.self_cpu_time_total / 1e3
    return list(steps.values())


def markdown(found: dict[str, dict[str, float]]) -> str:
    """Return the table."""
    lines = ["| ms per step | " + " | ".join(ALL) + " | all |", "|---" * (len(ALL) + 2) + "|"]
    for column, of_column in found.items():
        cells = [f"{of_column[kind]:.2f}" for kind in ALL]
        lines.append(f"| {column} | " + " | ".join(cells) + f" | {sum(of_column.values()):.2f} |")
    return "\n".join(lines) + "\n"


def draw(found: dict[str, dict[str, float]]) -> plt.Figure:
    """Return the picture."""
    figure, ax = plt.subplots(figsize=(8, 0.5 + 0.45 * len(found)), layout="constrained")
    left = [0.0] * len(found)
    for kind in ALL:
        widths = [of_column[kind] for of_column in found.values()]
        ax.barh(range(len(found)), widths, left=left, label=kind)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    ax.set_yticks(range(len(found)), list(found))
    ax.invert_yaxis()
    ax.set_xlabel("ms per step")
    ax.legend(fontsize=8, loc="lower right")
    return figure


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--row", choices=ROWS, default="vae-128")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    flags = parser.parse_args()
    if flags.steps < TURNS:
        parser.error(f"argument --steps: must be {TURNS} or more, got {flags.steps}")
    flags.out.mkdir(parents=True, exist_ok=True)
    options = Options(rounds=0, seed=0, threads=flags.threads, errors=0.0, tiny=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.pt"
        measure.in_subprocess(save_problem, flags.row, options, path)
        found = {
            COLUMNS[c].label: measure.in_subprocess(breakdown, c, options, path, flags.steps)
            for c in SHOWN
        }
    results: dict[str, Any] = {"machine": measure.machine(flags.threads), "row": flags.row}
    (flags.out / "anatomy.json").write_text(json.dumps(results | {"parts": found}, indent=1) + "\n")
    draw(found).savefig(flags.out / "anatomy.png", dpi=110)
    print(markdown(found))
    print(f"wrote anatomy.json and anatomy.png to {flags.out}", file=sys.stderr)
    return 0


def _ancestors(event: Any) -> list[Any]:
    found = [event]
    while found[-1].cpu_parent is not None:
        found.append(found[-1].cpu_parent)
    return found


def _kind(event: Any, above: Iterable[Any]) -> str | None:
    """Return what an event of the profiler is; None if it is no work on tensors."""
    if any(one.name.startswith("Optimizer.step") for one in above):
        return OPTIMIZER if event.name.startswith("aten::") else None
    if not event.name.startswith(("aten::", "mkl", "graph", "cpp", "kernel")):
        return None
    return next((k for k, names in KINDS.items() if any(n in event.name for n in names)), OTHER)


if __name__ == "__main__":
    sys.exit(main())
