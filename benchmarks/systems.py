"""What is trained to a bound: the VAE of CS236, and each system in a process of its own.

Nothing here imports ppl_vae where a system has to do without.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import measure
import torch
from rows import Column, Layers, Problem, Row, Unavailable, problem
from torch import Tensor

COMPILER = ("torch._inductor.compile_fx",)


class System(NamedTuple):
    """A way to train.

    Args:
        label: its name in tables.
        make: module and function that make it from a problem.
        imports: what is imported before the clock starts, besides that module.
        reference: the fastest of these is the best hand-written float32.
        library: whether its process may import ppl_vae.
    """

    label: str
    make: str
    imports: tuple[str, ...] = ()
    reference: bool = False
    library: bool = False


SYSTEMS = {
    "pyro": System("stock Pyro", "stock.example"),
    "pythae": System("pythae's trainer", "others.pythae", ("pythae.models", "pythae.trainers")),
    "numpyro": System("NumPyro, jitted loop", "others.numpyro", ("jax", "numpyro.infer")),
    "hand": System("hand-written", "hand.eager", reference=True),
    "hand-compiled": System("hand-written, compiled", "hand.compiled", COMPILER, reference=True),
    "ours": System("ppl_vae", "ours.plain", library=True),
    "ours-compiled": System("ppl_vae, compiled", "ours.compiled", COMPILER, library=True),
    "ours-bfloat16": System(
        "ppl_vae, compiled, bfloat16 products", "ours.bfloat16", COMPILER, library=True
    ),
}
CS236 = Row("cs236", "vae", 100, latent=10, hidden=300, depth=2, activation="ELU")
"""The VAE of Stanford CS236, problem set 2, as ``ppl_vae.reproduction.cs236`` has it."""
TINY = replace(CS236, batch=16, latent=2, hidden=8, pixels=64)
HELD_OUT = 5000


class Validation(NamedTuple):
    """Binary images, shape ``(N, pixels)``, and one standard normal draw for each of them."""

    images: Tensor
    draws: Tensor


def problem_of(seed: int, tiny: bool) -> tuple[Problem, Validation]:
    """Return the training problem of a seed, and the images held out, the same for all seeds.

    Images are MNIST's 60,000, of which the last 5,000 are held out; made up where ``tiny``.
    """
    from ppl_vae import data  # which other systems' processes must not import

    given = problem(TINY if tiny else CS236, seed)
    if tiny:
        grey, held_out = problem(TINY).images, 200
    else:
        grey, held_out = data.load("mnist").tensor(binarise="none").flatten(1), HELD_OUT
    generator = torch.Generator().manual_seed(0)
    images = torch.bernoulli(grey[-held_out:], generator=generator)
    draws = torch.randn(held_out, given.row.latent, generator=generator)
    train = grey[:-held_out].clone()
    labels = torch.zeros(len(train), dtype=torch.long)
    return replace(given, images=train, labels=labels), Validation(images, draws)


def start(name: str, path: Path, seed: int, threads: int) -> Column:
    """Return a system that is made by its first steps; to be called in a process of its own.

    Args:
        name: of the system.
        path: of the problem; compilers keep their work beside it, and find nothing there.
        seed: of torch's random numbers.
        threads: of the process.

    Raises:
        Unavailable: if it is not installed.
    """
    warnings.simplefilter("ignore")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(path.parent / "compiled")
    measure.begin(threads, flush=False)
    system = SYSTEMS[name]
    module, _, function = system.make.partition(".")
    try:
        for needed in system.imports:
            importlib.import_module(needed)
    except ImportError as error:
        raise Unavailable(f"no {error.name}") from error
    make = getattr(importlib.import_module(module), function)
    given = torch.load(path, weights_only=False)
    if "pyro" in sys.modules:
        # As its examples have it.
        sys.modules["pyro"].distributions.enable_validation(False)
    torch.manual_seed(seed)
    return _late(make, given)


def _late(make: Callable[[Problem], Column], given: Problem) -> Column:
    """Return a column that is made by its first turn, and within its time."""
    made: list[Column] = []

    def run(indices: Tensor) -> list:
        if not made:
            made.append(make(given))
        return list(made[0].run(indices))

    def weights() -> dict[str, Layers]:
        return made[0].weights()

    return Column(run, weights)
