"""What each process sees of a step's data, and how much it counts there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ppl_vae.data import Part


# A collection, or a dataclass, would be taken apart by Fabric and rounded where precision is mixed:
# data and densities are to stay as they are.
class Share:
    """One process's share of a step.

    Args:
        parts: its data, part by part.
        fractions: for each part W · B_r / B, where B_r of the B data of all W processes are here:
            the mean over processes of fraction · (mean loss here) is the mean loss of the B data,
            however unequally they are divided.
        sizes: B of each part.
    """

    def __init__(
        self, parts: Sequence[Part], fractions: Sequence[float], sizes: Sequence[int]
    ) -> None:
        self.parts = tuple(parts)
        self.fractions = tuple(fractions)
        self.sizes = tuple(sizes)


@dataclass(frozen=True)
class Processes:
    """Which process this is, of how many.

    Args:
        rank: from 0.
        number: W.
    """

    rank: int = 0
    number: int = 1

    def share(self, parts: Sequence[Part]) -> Share:
        """Return every W-th datum of each part, from the rank on.

        A process for which none is left computes one datum, which counts nothing: it must take
        part in what the processes do together.
        """
        if self.number == 1:
            return Share(parts, [1.0] * len(parts), [len(part) for part in parts])
        mine, fractions, sizes = [], [], []
        for part in parts:
            size, here = len(part), part.rows(slice(self.rank, None, self.number))
            left = len(here)
            mine.append(here if left else part.rows(slice(1)))
            fractions.append(self.number * left / size)
            sizes.append(size)
        return Share(mine, fractions, sizes)


def together(fabric: Fabric) -> AbstractContextManager:
    """Leave a region together: where one process fails in it, none waits for that one for ever.

    What the processes do together must come before or after.

    Raises:
        RuntimeError: if another process has failed; that one raises its own error.
    """
    return nullcontext() if fabric.world_size == 1 else _together(fabric)


@contextmanager
def _together(fabric: Fabric) -> Iterator[None]:
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    failed = any_of(fabric, error is not None)
    if error is not None:
        raise error
    if failed:
        raise RuntimeError("fit: another process failed; its own error says why")


def any_of(fabric: Fabric, here: bool) -> bool:
    """Tell whether something is true in any process."""
    return bool(greatest(fabric, int(here)))


def greatest(fabric: Fabric, here: int) -> int:
    """Return the greatest of the processes' numbers."""
    if fabric.world_size == 1:
        return here
    found = fabric.all_reduce(torch.tensor(here, device=fabric.device), reduce_op="max")
    assert isinstance(found, Tensor)
    return int(found)
