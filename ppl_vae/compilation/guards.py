"""What a graph takes for granted of its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor

from ppl_vae.labels import Labels, assume_checked, recorded_checks


def kinds(tensors: Sequence[Tensor], labels: Sequence[Labels | None]) -> tuple[tuple, ...]:
    """Return what a graph takes for granted of its inputs.

    Of values that is whether some labels are missing, by which programs differ; those of other
    inputs, such as the indices of a batch, are not looked at: a look waits for the device.

    Raises:
        ValueError: if a label is out of range.
    """
    return tuple(
        (tuple(t.shape), t.dtype, t.device, None if of is None else of.check(t, len(t)))
        for t, of in zip(tensors, labels, strict=True)
    )


@contextmanager
def labels_among(tensors: Sequence[Tensor]) -> Iterator[list[Labels | None]]:
    """Yield a list that says afterwards of which labels a program took each of the tensors for."""
    found: list[Labels | None] = []
    with recorded_checks() as asked:
        yield found
    found += (next((labels for y, labels in asked if y is t), None) for t in tensors)


def seen(tensors: Sequence[Tensor], kinds: Sequence[tuple]) -> AbstractContextManager[None]:
    """Make a context in which programs take what :func:`kinds` says of labels for granted."""
    pairs = zip(tensors, kinds, strict=True)
    return assume_checked(*((t, missing) for t, (*_, missing) in pairs if missing is not None))
