"""What a graph takes for granted of its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from ppl_vae.models.labels import forget_range, range_known, some_missing


def kinds(tensors: Sequence[Tensor], labels: Sequence[bool]) -> tuple[tuple, ...]:
    """Return what a graph takes for granted of its inputs.

    Of values that is whether some labels are missing, by which programs differ; those of other
    inputs, such as the indices of a batch, are not looked at: a look waits for the device.
    """
    return tuple(
        (tuple(t.shape), t.dtype, t.device, of_labels and some_missing(t))
        for t, of_labels in zip(tensors, labels, strict=True)
    )


@contextmanager
def labels_among(tensors: Sequence[Tensor]) -> Iterator[list[bool]]:
    """Yield a list that holds afterwards which of the tensors a program looked at as labels."""
    found: list[bool] = []
    for tensor in tensors:
        forget_range(tensor)
    yield found
    found += map(range_known, tensors)
