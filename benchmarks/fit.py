"""What ``training.fit`` adds to the steps of a loop of one's own.

    .venv/bin/python benchmarks/fit.py

takes the steps of the VAE rows by ``fit`` and by bare loops over the same pair, estimator and
optimiser, in turn in one process: zero_grad, loss, backward and step, or ``compile_step``, on
images that are drawn by index and binarised. It prints a table and writes ``fit.json`` under
``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import measure
import ours
import pyro
import torch
from rows import ROWS, Problem, problem, row_of
from torch import Tensor

from ppl_vae import training

RESULTS = Path(__file__).parent / "results"
WARM_UP = 3
"""Steps at the start of each turn that are not counted."""


class Options(NamedTuple):
    """What a process is told."""

    rounds: int
    steps: int
    threads: int
    compiled: bool
    tiny: bool


class RecordingAdam(torch.optim.Adam):
    """Adam that notes the time after each step, and how often memory came from the system."""

    def __init__(self, parameters: Any, rate: float) -> None:
        super().__init__(parameters, lr=rate, fused=True)
        self.times: list[float] = []
        self.faults: list[int] = []

    def step(self, closure: None = None) -> None:
        """Take a step."""
        super().step(closure)
        self.times.append(time.perf_counter())
        self.faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)


def drawn(given: Problem, index: Tensor) -> Tensor:
    """Return a batch as the data room draws it."""
    grey = given.images.index_select(0, index)
    return torch.rand(grey.shape).lt_(grey)


def bare(given: Problem, steps: int) -> RecordingAdam:
    """Take steps in the shortest loop that there is."""
    pair, estimator = ours.pair_of(given), ours.estimator_of(given)
    optimizer = RecordingAdam(pair.parameters(), given.rate)
    with pyro.validation_enabled(False):
        for index in given.batches(steps, torch.default_generator):
            optimizer.zero_grad()
            x = drawn(given, index)
            loss = estimator.differentiable_loss(pair.model, pair.guide, x) * (1 / len(x))
            loss.backward()
            optimizer.step()
    return optimizer


def bare_compiled(given: Problem, steps: int) -> RecordingAdam:
    """Take steps by ``compile_step``, of batches that are drawn outside the graph, as in fit."""
    pair = ours.pair_of(given)
    optimizer = RecordingAdam(pair.parameters(), given.rate)
    step = training.compile_step(pair, ours.estimator_of(given), optimizer)
    for index in given.batches(steps, torch.default_generator):
        step(drawn(given, index))
    return optimizer


def fit(given: Problem, steps: int, *, compiled: bool = False) -> RecordingAdam:
    """Take steps by ``fit``, of grey values that it binarises."""
    made: list[RecordingAdam] = []

    def optimizer(parameters: Any) -> RecordingAdam:
        made.append(RecordingAdam(parameters, given.rate))
        return made[0]

    training.fit(
        ours.pair_of(given),
        given.images,
        steps=steps,
        batch_size=given.row.batch,
        estimator=ours.estimator_of(given),
        optimizer=optimizer,
        compile=compiled,
        progress=False,
    )
    return made[0]


COLUMNS: dict[str, Callable[[Problem, int], RecordingAdam]] = {
    "a bare loop": bare,
    "fit": fit,
    "a loop of compile_step": bare_compiled,
    "fit, compiled": partial(fit, compiled=True),
}
LOOPS = {
    "a bare loop": "a bare loop",
    "fit": "a bare loop",
    "a loop of compile_step": "a loop of compile_step",
    "fit, compiled": "a loop of compile_step",
}
"""What the time of a column is divided by, turn by turn."""
COMPILED = {"a loop of compile_step", "fit, compiled"}


def time_row(name: str, options: Options) -> dict[str, Any]:
    """Return the figures of a row; to be called in a process of its own."""
    row = row_of(name, options.tiny)
    measure.begin(options.threads, row.flush)
    warnings.simplefilter("ignore")
    given = problem(row)
    columns = [column for column in COLUMNS if options.compiled or column not in COMPILED]
    times: dict[str, list[float]] = {column: [] for column in columns}
    faults: dict[str, list[float]] = {column: [] for column in columns}
    taken: dict[str, int] = dict.fromkeys(columns, 0)
    order = list(columns)
    for turn in range(-1, options.rounds):  # the first one compiles and warms up
        random.Random(turn).shuffle(order)
        for column in order:
            noted = COLUMNS[column](given, options.steps)
            if turn >= 0:
                times[column].append(1e3 * median(_differences(noted.times)))
                faults[column].append(median(_differences(noted.faults)))
                taken[column] += len(noted.times)
    return {
        column: {
            "milliseconds": measure.spread(times[column])._asdict(),
            "ratio": median(
                ours / theirs
                for ours, theirs in zip(times[column], times[LOOPS[column]], strict=True)
            ),
            "page faults": median(faults[column]),
            "steps": taken[column],
        }
        for column in columns
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    rows = [row.name for row in ROWS.values() if row.kind not in ("ssvae", "likelihood")]
    usual = [name for name in rows if ROWS[name].kind == "vae"]
    add("--rows", nargs="+", choices=rows, default=usual, metavar="ROW", help=", ".join(rows))
    add("--rounds", type=int, default=9)
    add("--steps", type=int, default=100, help=f"in a turn; the first {WARM_UP} are not counted")
    add("--threads", type=int, default=2)
    add("--compiled", action=argparse.BooleanOptionalAction, default=True)
    add("--tiny", action="store_true", help="sizes that take no time, to see that it runs")
    add("--out", type=Path, default=RESULTS)
    flags = parser.parse_args()
    if flags.steps < WARM_UP + 2:
        parser.error(f"argument --steps: must be {WARM_UP + 2} or more, got {flags.steps}")
    options = Options(flags.rounds, flags.steps, flags.threads, flags.compiled, flags.tiny)
    results: dict[str, Any] = {"machine": measure.machine(flags.threads), "rows": {}}
    flags.out.mkdir(parents=True, exist_ok=True)
    for name in flags.rows:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results["rows"][name] = measure.in_subprocess(time_row, name, options)
        (flags.out / "fit.json").write_text(json.dumps(results, indent=1) + "\n")
    print(markdown(results["rows"]))
    print(f"wrote fit.json to {flags.out}", file=sys.stderr)


def markdown(rows: dict[str, Any]) -> str:
    """Return the table: milliseconds per step, and the ratio to the bare loop of its kind."""
    columns = list(next(iter(rows.values())))
    lines = [
        f"| |{'|'.join(f' {column} ' for column in columns)}|",
        f"|{'---|' * len(columns)}---|",
    ]
    for name, row in rows.items():
        cells = [f"{c['milliseconds']['median']:.3g} ×{c['ratio']:.2f}" for c in row.values()]  # noqa: RUF001
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _differences(values: list[Any]) -> list[Any]:
    return [b - a for a, b in zip(values[WARM_UP:], values[WARM_UP + 1 :], strict=False)]


if __name__ == "__main__":
    sys.exit(main())
