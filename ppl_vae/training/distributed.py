"""The processes of a training: each one's shard of the data, and errors that end all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ppl_vae.data import Part


# No collection and no dataclass: Fabric would round its tensors under mixed precision.
class DataShard:
    """One process's shard of a step's data, part by part.

    ``fractions`` are W · B_r / B for each part, where this process has B_r of the B data of all W
    processes: the mean over processes of fraction · (mean loss here) is the mean loss of all B
    data, however unequal the shards. ``sizes`` are B of each part.
    """

    def __init__(
        self, parts: Sequence[Part], fractions: Sequence[float], sizes: Sequence[int]
    ) -> None:
        self.parts = tuple(parts)
        self.fractions = tuple(fractions)
        self.sizes = tuple(sizes)


def shard(parts: Sequence[Part], rank: int = 0, processes: int = 1) -> DataShard:
    """Return every W-th datum of each part, starting at the rank, for one of W processes.

    A process without data computes one datum with weight 0, to take part in collective operations.
    """
    sizes = [len(part) for part in parts]
    if processes == 1:
        return DataShard(parts, [1.0] * len(parts), sizes)
    counts = [len(range(rank, size, processes)) for size in sizes]
    rows = [slice(rank, None, processes) if count else slice(1) for count in counts]
    return DataShard(
        [part.rows(some) for part, some in zip(parts, rows, strict=True)],
        [processes * count / size for count, size in zip(counts, sizes, strict=True)],
        sizes,
    )


@contextmanager
def sharing_failures(fabric: Fabric) -> Iterator[None]:
    """Raise at the end of a block without collective operations if it failed in any process.

    Otherwise the others would wait for ever.
    """
    if fabric.world_size == 1:
        yield
        return
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    failed = any_process(fabric, error is not None)
    if error is not None:
        raise error
    if failed:
        raise RuntimeError("fit: another process failed; see its own error")


def any_process(fabric: Fabric, here: bool) -> bool:
    """Return whether something is true in any process."""
    return bool(max_over_processes(fabric, int(here)))


def max_over_processes(fabric: Fabric, here: int) -> int:
    """Return the greatest of the processes' numbers."""
    if fabric.world_size == 1:
        return here
    found = fabric.all_reduce(torch.tensor(here, device=fabric.device), reduce_op="max")
    assert isinstance(found, Tensor)
    return int(found)
