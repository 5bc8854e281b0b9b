"""How time and memory per step grow with K, components, latent dimensions, classes and batch.

    .venv/bin/python benchmarks/growth.py

prints a table and writes ``growth.json`` and ``growth.png`` under ``benchmarks/results``. The
exponent is the slope of log cost against log size over the three largest sizes: below 1 where a
fixed part of the cost still counts, and 1 where the rest is linear. Memory is the most that torch's
allocator holds above its level before a step: activations and gradients.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import measure
import ours
import pyro
import torch
from matplotlib import pyplot as plt
from rows import ROWS, problem

RESULTS = Path(__file__).parent / "results"
ABOVE_LINEAR = 1.1
"""Exponents of timings are not known better than to a tenth."""


class Axis(NamedTuple):
    """What grows: a field of a row, and its values."""

    label: str
    row: str
    field: str
    sizes: tuple[int, ...]


AXES = {
    "particles": Axis("particles K", "iwae-50", "particles", (5, 10, 20, 50, 100, 200)),
    "components": Axis(
        "components of the prior", "gmvae-128", "components", (50, 150, 500, 1500, 5000, 15000)
    ),
    "latent": Axis("latent dimensions", "vae-128", "latent", (5, 15, 50, 150, 500, 1500)),
    "classes": Axis("classes of y", "ssvae-100", "classes", (2, 5, 10, 20, 50, 100)),
    "batch": Axis("batch", "vae-128", "batch", (32, 64, 128, 256, 512, 1024, 2048)),
}
COLUMNS = {"ours": ours.plain, "ours-compiled": ours.compiled}


class Options(NamedTuple):
    """What a process is told."""

    rounds: int
    seed: int
    threads: int
    tiny: bool


def cost(axis: str, column: str, options: Options) -> dict[str, list[float]]:
    """Return time and memory by size; to be called in a process of its own."""
    measure.begin(options.threads, flush=True)
    warnings.simplefilter("ignore")
    pyro.distributions.enable_validation(False)
    pyro.set_rng_seed(options.seed)
    _, row, field, sizes = AXES[axis]
    given, runs = [], []
    for size in sizes[:3] if options.tiny else sizes:
        given.append(problem(replace(ROWS[row], **{field: size}, turn=1), options.seed))
        runs.append(COLUMNS[column](given[-1]).run)
    generator = torch.Generator().manual_seed(options.seed)
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(-2, options.rounds):
        for k, run in enumerate(runs):
            indices = given[k].batches(1, generator)
            start = time.perf_counter()
            run(indices)
            if turn >= 0:
                seconds[k].append(time.perf_counter() - start)
    held = []
    for of_size, run in zip(given, runs, strict=True):
        indices = of_size.batches(2, generator)
        held.append(measure.peak_above_start(lambda run=run, indices=indices: run(indices)) / 1e6)
    return {
        "sizes": [getattr(p.row, field) for p in given],
        "milliseconds": [1e3 * measure.spread(times).median for times in seconds],
        "megabytes": held,
    }


def exponent(sizes: list[float], costs: list[float]) -> float:
    """Return the slope of log cost against log size, by least squares over the three largest."""
    x = [math.log(size) for size in sizes[-3:]]
    y = [math.log(value) for value in costs[-3:]]
    middle = sum(x) / len(x)
    spread = sum((a - middle) ** 2 for a in x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / spread


def report(found: dict[str, dict[str, Any]]) -> str:
    """Return the table, and what grows faster than linearly."""
    lines, above = ["| | sizes | ms | exponent | MB | exponent |", "|---|---|---|---|---|---|"], []
    for axis, columns in found.items():
        for column, of_column in columns.items():
            sizes = of_column["sizes"]
            cells = [f"{AXES[axis].label}, {column}", f"{sizes[0]} to {sizes[-1]}"]
            for what in ("milliseconds", "megabytes"):
                costs = of_column[what]
                power = exponent(sizes, costs)
                cells += [f"{costs[0]:.3g} to {costs[-1]:.3g}", f"{power:.2f}"]
                if power > ABOVE_LINEAR:
                    above.append(f"{what} against {cells[0]}: exponent {power:.2f}")
            lines.append("| " + " | ".join(cells) + " |")
    verdict = above or ["nothing grows faster than linearly"]
    return "\n".join([*lines, "", *(f"- {line}" for line in verdict)]) + "\n"


def draw(found: dict[str, dict[str, Any]]) -> plt.Figure:
    """Return the picture: time above, memory below, and lines of slope 1 to compare with."""
    figure, axes = plt.subplots(
        2, len(found), figsize=(2.7 * len(found), 5), squeeze=False, layout="constrained"
    )
    whats = {"milliseconds": "ms per step", "megabytes": "MB in a step"}
    for j, (axis, columns) in enumerate(found.items()):
        for i, (what, label) in enumerate(whats.items()):
            ax = axes[i][j]
            for column, of_column in columns.items():
                ax.plot(of_column["sizes"], of_column[what], "o-", ms=4, label=column)
            sizes, last = of_column["sizes"], of_column[what][-1]
            line = [last * size / sizes[-1] for size in sizes]
            ax.plot(sizes, line, "--", color="0.6", label="linear")
            ax.set(xscale="log", yscale="log", xlabel=AXES[axis].label)
            lowest = min(min(of_column[what]) for of_column in columns.values())
            ax.set_ylim(bottom=lowest / 2)
            if j == 0:
                ax.set_ylabel(label)
    axes[0][0].legend(fontsize=8)
    return figure


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--axes", nargs="+", choices=AXES, default=list(AXES), metavar="AXIS", help=", ".join(AXES))
    add("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS), metavar="COLUMN")
    add("--rounds", type=int, default=15, help="steps at each size")
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=0)
    add("--tiny", action="store_true", help="the three smallest sizes only, to see that it runs")
    add("--out", type=Path, default=RESULTS)
    flags = parser.parse_args()
    options = Options(flags.rounds, flags.seed, flags.threads, flags.tiny)
    flags.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for axis in flags.axes:
        print(f"{axis} ...", file=sys.stderr, flush=True)
        found[axis] = {c: measure.in_subprocess(cost, axis, c, options) for c in flags.columns}
    text = report(found)
    results = {"machine": measure.machine(flags.threads), "seed": flags.seed, "axes": found}
    (flags.out / "growth.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(found).savefig(flags.out / "growth.png", dpi=110)
    print(text)
    print(f"wrote growth.json and growth.png to {flags.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
