"""The columns of the benchmark, each to be made in a process of its own.

Nothing here imports ppl_vae: a process that does has torch's constants in memory from then on, and
is no longer what a user of plain PyTorch has.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import hand
import measure
import torch
from rows import Column, Problem, problem, row_of


class Entry(NamedTuple):
    """A column of the tables.

    Args:
        label: its head.
        make: module and function that make it from a problem, or raise `Unavailable`.
        reference: ratios are to the fastest of these, and losses are compared with the first's.
        losses: whether it has any.
        library: whether its process may import ppl_vae.
        rounding: whether its products are rounded to bfloat16.
    """

    label: str
    make: str
    reference: bool = False
    losses: bool = True
    library: bool = False
    rounding: bool = False


COLUMNS = {
    "products": Entry("matrix products alone", "products.alone", losses=False),
    "hand": Entry("hand-written", "hand.eager", reference=True),
    "hand-compiled": Entry("hand-written, compiled", "hand.compiled", reference=True),
    "hand-float32": Entry("the same, mixture in float32", "hand.compiled_single"),
    "hand-mapped": Entry("hand-written, compiled, constants mapped", "hand.mapped"),
    "hand-densities": Entry(
        "hand-written, compiled, our densities", "hand.our_densities", library=True
    ),
    "hand-bfloat16": Entry(
        "hand-written, compiled, bfloat16 products", "hand.bfloat16", rounding=True
    ),
    "ours": Entry("ppl_vae", "ours.plain", library=True),
    "ours-compiled": Entry("ppl_vae, compiled", "ours.compiled", library=True),
    "ours-bfloat16": Entry(
        "ppl_vae, compiled, bfloat16 products", "ours.bfloat16", library=True, rounding=True
    ),
    "pyro": Entry("stock Pyro", "stock.svi"),
    "numpyro": Entry("NumPyro, jitted loop", "others.numpyro"),
    "pythae": Entry("pythae's trainer", "others.pythae"),
}


class Options(NamedTuple):
    """What a process is told."""

    rounds: int
    seed: int
    threads: int
    errors: float
    tiny: bool


def without(column: str) -> tuple[str, ...]:
    """Return the packages that a column's process must not import."""
    return () if COLUMNS[column].library else ("ppl_vae",)


def save_problem(name: str, options: Options, path: Path) -> float:
    """Write a row's problem to a file, for all processes; to be called in a process of its own.

    Returns:
        The standard deviation of a loss's error by rounding to bfloat16, in nats per datum.
    """
    row = row_of(name, options.tiny)
    measure.begin(options.threads, flush=True)
    given = problem(row, options.seed)
    if row.kind == "likelihood":
        hand.train(given, 5 if options.tiny else 300)
    torch.save(given, path)
    return hand.rounding(given.at_rest())


def load_problem(path: Path) -> Problem:
    """Return a problem that was saved."""
    return torch.load(path, weights_only=False)


def make_column(column: str, path: Path, options: Options, rest: bool = False) -> Column:
    """Return a column after a turn; to be called in a process of its own.

    Raises:
        Unavailable: if there is no such column.
    """
    make, given = prepare(column, path, options, rest)
    made = make()
    made.run(given.batches(given.row.turn, torch.Generator().manual_seed(options.seed)))
    return made


def prepare(
    column: str, path: Path, options: Options, rest: bool = False
) -> tuple[Callable[[], Column], Problem]:
    """Set this process up for a column; return what makes it, and its problem."""
    warnings.simplefilter("ignore")
    module, _, function = COLUMNS[column].make.partition(".")
    make = getattr(importlib.import_module(module), function)
    given = load_problem(path)
    given = given.at_rest() if rest else given
    # Denormal numbers take time, and change no loss.
    measure.begin(options.threads, rest or given.row.flush)
    if "pyro" in sys.modules:
        # As its examples have it; its other checks are ended by the columns that end them.
        sys.modules["pyro"].distributions.enable_validation(False)
    torch.manual_seed(options.seed)
    return partial(make, given), given
