"""Times in turn, losses that agree, memory, and the machine they are of."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple, Protocol

import torch
from rows import Column, Problem
from torch import Tensor

BLOCKS = 10
ROUNDING = 1e-5
"""The share of a loss that two orders of the same sums in float32 may differ by."""
PACKAGES = ("torch", "pyro-ppl", "numpyro", "jax", "pythae", "numpy")


class Taker(Protocol):
    """A column, here or in a process of its own."""

    def turn(self, indices: Tensor) -> tuple[float, list[float]]:
        """Take the steps of a turn; return seconds per step, and their losses."""


class Turns(NamedTuple):
    """Seconds per step in each turn, and the loss of each step in nats per datum."""

    seconds: list[float]
    losses: list[float]


class Agreement(NamedTuple):
    """A loss at rest, and its difference from the reference's ± an error, in nats per datum."""

    loss: float
    difference: float
    error: float


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def take_turns(
    columns: Mapping[str, Taker], problem: Problem, rounds: int, seed: int
) -> dict[str, Turns]:
    """Give every column its turn in each round, in an order that is drawn anew.

    All see the same indices. The first two turns are not counted: they compile and warm up.
    """
    generator, order = torch.Generator().manual_seed(seed), random.Random(seed)
    turns = {name: Turns([], []) for name in columns}
    names = list(columns)
    for turn in range(-2, rounds):
        indices = problem.batches(problem.row.turn, generator)
        order.shuffle(names)
        for name in names:
            seconds, losses = columns[name].turn(indices)
            if turn >= 0:
                turns[name].seconds.append(seconds)
                turns[name].losses.extend(losses)
    return turns


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(median(values), low, high)


def at_rest(
    columns: Mapping[str, Taker],
    problem: Problem,
    reference: str,
    errors: float,
    seed: int,
    rounding: Mapping[str, float] | None = None,
) -> tuple[dict[str, Agreement], list[str]]:
    """Compare the losses of columns that were made for a problem at rest: the strict comparison.

    Weights are those of the start, for all columns and at all steps: the losses have one mean, and
    what is allowed beside standard errors is rounding. A column that gives the mean over a turn in
    the place of each step's loss is as good as another: turns are what errors are estimated from.

    Args:
        columns: those to compare.
        problem: at rest.
        reference: the column that the others are compared with.
        errors: how many standard errors losses may differ by.
        seed: of the indices.
        rounding: the standard deviation of a column's loss by rounding of its weights, the same at
            all steps, in nats per datum; it adds to the standard error as a variance.

    Returns:
        The loss of each column, and a sentence for each that disagrees.
    """
    if problem.rate:
        raise ValueError(f"expected a problem at rest (`Problem.at_rest`), got rate={problem.rate}")
    rounds = problem.row.rest
    turns = take_turns(columns, problem, rounds, seed)
    expected = turns[reference].losses
    found = {
        name: Agreement(
            sum(turn.losses) / len(turn.losses), *disagreement(turn.losses, expected, rounds)
        )
        for name, turn in turns.items()
    }
    return found, disagreements(
        turns, reference, errors, share=ROUNDING, blocks=rounds, rounding=rounding
    )


def disagreement(
    losses: Sequence[float], others: Sequence[float], blocks: int = BLOCKS
) -> tuple[float, float]:
    """Return the mean of the differences step by step, and its standard error.

    In a training, losses of neighbouring steps come from weights that are nearly the same, and are
    not independent: the error is that of the means of some blocks of steps.
    """
    difference = torch.tensor(losses, dtype=torch.float64) - torch.tensor(others).double()
    size = max(1, len(difference) // blocks)
    means = difference[: size * (len(difference) // size)].view(-1, size).mean(1)
    if not difference.isfinite().all():
        return math.inf, 0.0
    return difference.mean().item(), (means.std() / math.sqrt(len(means))).item()


def disagreements(
    turns: dict[str, Turns],
    reference: str,
    errors: float,
    *,
    share: float = 0.02,
    blocks: int = BLOCKS,
    rounding: Mapping[str, float] | None = None,
) -> list[str]:
    """Return a sentence for each column whose losses are not those of the reference's.

    They may differ by so many standard errors, and by a share of the loss besides. As it is, this
    compares trainings, coarsely: two that draw other numbers run apart, and stay so, by a percent
    or so. It finds gradients and optimisers that do not do the same. ``at_rest`` is the strict one.
    """
    found = []
    expected = turns[reference].losses
    for name, of_column in turns.items():
        if name == reference:
            continue
        difference, error = disagreement(of_column.losses, expected, blocks)
        error = math.hypot(error, (rounding or {}).get(name, 0.0))
        allowed = errors * error + share * abs(sum(expected) / len(expected))
        if not abs(difference) <= allowed:
            found.append(
                f"{name}: its loss is off from that of {reference} by {difference:.3g} ± "
                f"{error:.2g} nats per datum"
            )
    return found


def set_environment() -> None:
    """Set what processes of their own read when they start."""
    # The profiler says that it starts, that it stops, and that there is no GPU.
    os.environ.update(KINETO_LOG_LEVEL="99", TORCH_CPP_LOG_LEVEL="ERROR")
    # Memory that is freed stays with the process, for all columns: whether the C library gives it
    # back to the system at each step, and has to ask for it again, is chance, and costs as much.
    os.environ.update(MALLOC_TRIM_THRESHOLD_=str(2**32), MALLOC_MMAP_THRESHOLD_=str(2**30))


def in_subprocess(function: Callable, *args: Any) -> Any:
    """Return what a function of a module returns in a process of its own."""
    set_environment()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def begin(threads: int, flush: bool) -> None:
    """Set a process up: before its first parallel operation, whose threads take the flag over."""
    # XLA reads this when it starts; a benchmark that gives it other threads is of something else.
    flags = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    os.environ["XLA_FLAGS"] = f"{flags} intra_op_parallelism_threads={threads}"
    # Set by an import of ours, it has optimisers search the disk for a driver at each step.
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    torch.set_flush_denormal(flush)
    torch.set_num_threads(threads)


def memory(make: Callable[[], Column], problem: Problem, seed: int) -> dict[str, float] | None:
    """Return what a column takes above a process that holds the data and the compiler, in MB.

    ``tensors`` is the most that tensors take at once during a turn: weights, gradients, the
    optimiser's state, activations. Tensors of other libraries than torch are not seen.

    ``resident`` is how far the resident set rises above its level before the column was made: the
    high-water mark of the kernel, reset after two turns, in which everything is compiled, and read
    after two more. Besides tensors it has the code of the kernels in use, what a compiler keeps of
    its work, and the gaps that the C library leaves between what it has given out.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    generator = torch.Generator().manual_seed(seed)

    def turn() -> None:
        run(problem.batches(problem.row.turn, generator))

    # The compiler's own modules are in every column's process, whether it compiles or not.
    torch.compile(torch.sin, dynamic=False)(torch.ones(3))
    problem.images.sum()
    _settle()
    before = _status("VmRSS")
    gc.collect()
    data = tensor_bytes()
    run = make().run
    turn()
    turn()
    _settle()
    Path("/proc/self/clear_refs").write_text("5")
    turn()
    turn()
    resident = _status("VmHWM") - before
    gc.collect()
    return {
        "resident": resident / 1e3,
        "tensors": (tensor_bytes() - data + peak_above_start(turn)) / 1e6,
    }


def tensor_bytes() -> int:
    """Return the bytes of all tensors of torch that there are, and of their gradients."""
    # Not those of which a compiler knows the shape alone.
    found = [t for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter)]
    found += [t.grad for t in found if t.is_leaf and t.grad is not None]
    storages = [t.untyped_storage() for t in found if t.device.type != "meta"]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def peak_above_start(turn: Callable[[], None]) -> float:
    """Return the most bytes that torch's allocator held at once, above its level at the start."""
    with torch.profiler.profile(profile_memory=True) as profile:
        turn()
    assert profile.profiler is not None
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def machine(threads: int) -> dict[str, Any]:
    """Return what the figures depend on."""
    # Processes of other columns must not import ppl_vae.
    from ppl_vae.reproduction import machine as of_machine

    return of_machine.machine(PACKAGES) | {"threads": threads}


def _settle() -> None:
    """Give back what is not used, so that what is measured next is."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(name: str) -> float:
    """Return a number of this process's status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
