"""Guards on the inputs of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor

from ppl_vae.labels import Labels, known, looks


def input_guards(tensors: Sequence[Tensor], labels: Sequence[Labels | None]) -> tuple[tuple, ...]:
    """Return what a graph assumes of its inputs: shapes, dtypes, devices, missing labels.

    Programs branch on whether labels are missing. No other values are read, such as the indices of
    a batch: reading synchronises with the device.

    Raises:
        ValueError: if a label is out of range.
    """
    return tuple(
        (tuple(t.shape), t.dtype, t.device, None if of is None else of.check(t, len(t)))
        for t, of in zip(tensors, labels, strict=True)
    )


@contextmanager
def recorded_labels(tensors: Sequence[Tensor]) -> Iterator[list[Labels | None]]:
    """Yield a list that says, after the block, which tensors a program used as which labels."""
    found: list[Labels | None] = []
    with looks() as asked:
        yield found
    found += (next((labels for y, labels in asked if y is t), None) for t in tensors)


def assumed(tensors: Sequence[Tensor], guards: Sequence[tuple]) -> AbstractContextManager[None]:
    """Make programs rely on what :func:`input_guards` says of missing labels."""
    pairs = zip(tensors, guards, strict=True)
    return known(*((t, missing) for t, (*_, missing) in pairs if missing is not None))
