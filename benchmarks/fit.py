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
from typing import Any

import measure
import ours
import pyro
import torch
from rows import ROWS, Problem, problem
from torch import Tensor

from ppl_vae import training

RESULTS = Path(__file__).parent / "results"
WARM_UP = 3
"""Steps at the start of each turn that are not counted."""


class Noting(torch.optim.Adam):
    """Adam that notes the time after each step, and how often memory came from the system."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=1e-3, fused=True)
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


def bare(given: Problem, steps: int) -> Noting:
    """Take steps in the shortest loop that there is."""
    pair, estimator = ours.pair_of(given), ours.estimator_of(given)
    optimiser = Noting(pair.parameters())
    with pyro.validation_enabled(False):
        for index in given.batches(steps, torch.default_generator):
            optimiser.zero_grad()
            x = drawn(given, index)
            loss = estimator.differentiable_loss(pair.model, pair.guide, x) * (1 / len(x))
            loss.backward()
            optimiser.step()
    return optimiser


def bare_compiled(given: Problem, steps: int) -> Noting:
    """Take steps by ``compile_step``, of batches that are drawn outside the graph, as in fit."""
    pair = ours.pair_of(given)
    optimiser = Noting(pair.parameters())
    step = training.compile_step(pair, ours.estimator_of(given), optimiser)
    for index in given.batches(steps, torch.default_generator):
        step(drawn(given, index))
    return optimiser


def fit(given: Problem, steps: int, *, compiled: bool = False) -> Noting:
    """Take steps by ``fit``, of grey values that it binarises."""
    made: list[Noting] = []

    def optimiser(parameters: Any) -> Noting:
        made.append(Noting(parameters))
        return made[0]

    training.fit(
        ours.pair_of(given),
        given.images,
        steps=steps,
        batch_size=given.row.batch,
        estimator=ours.estimator_of(given),
        optimiser=optimiser,
        compile=compiled,
        progress=False,
    )
    return made[0]


COLUMNS: dict[str, Callable[[Problem, int], Noting]] = {
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


def timed(name: str, rounds: int, steps: int, threads: int) -> dict[str, Any]:
    """Return the figures of a row; to be called in a process of its own."""
    row = ROWS[name]
    measure.begin(threads, row.flush)
    warnings.simplefilter("ignore")
    given = problem(row)
    times: dict[str, list[float]] = {column: [] for column in COLUMNS}
    faults: dict[str, list[float]] = {column: [] for column in COLUMNS}
    order = list(COLUMNS)
    for turn in range(-1, rounds):  # the first one compiles and warms up
        random.Random(turn).shuffle(order)
        for column in order:
            noted = COLUMNS[column](given, steps)
            if turn >= 0:
                times[column].append(1e3 * median(_differences(noted.times)))
                faults[column].append(median(_differences(noted.faults)))
    return {
        column: {
            "milliseconds": measure.spread(times[column])._asdict(),
            "ratio": median(
                ours / theirs
                for ours, theirs in zip(times[column], times[LOOPS[column]], strict=True)
            ),
            "page faults": median(faults[column]),
        }
        for column in COLUMNS
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", default=["vae-32", "vae-128", "vae-512"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100, help="in a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    flags = parser.parse_args()
    results: dict[str, Any] = {"machine": measure.machine(flags.threads), "rows": {}}
    print(f"| |{'|'.join(f' {c} ' for c in COLUMNS)}|\n|{'---|' * (1 + len(COLUMNS))}")
    for name in flags.rows:
        row = measure.apart(timed, name, flags.rounds, flags.steps, flags.threads)
        results["rows"][name] = row
        cells = [f" {c['milliseconds']['median']:.3g} ×{c['ratio']:.2f} " for c in row.values()]  # noqa: RUF001
        print(f"| {name} |{'|'.join(cells)}|", flush=True)
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "fit.json").write_text(json.dumps(results, indent=1) + "\n")


def _differences(values: list[Any]) -> list[Any]:
    return [b - a for a, b in zip(values[WARM_UP:], values[WARM_UP + 1 :], strict=False)]


if __name__ == "__main__":
    sys.exit(main())
