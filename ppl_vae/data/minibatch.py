"""Minibatches, with data by name: what an epoch yields and a training step receives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.errors import describe


class Batch(NamedTuple):
    """A minibatch: values, one datum per row, and their labels, None if the data set has none."""

    x: Tensor
    y: Tensor | None


class MaskedBatch(NamedTuple):
    """A `Batch` with missing entries: x is NaN where the boolean mask, of its shape, is False."""

    x: Tensor
    y: Tensor | None
    mask: Tensor


class ContextBatch(NamedTuple):
    """A `Batch` with contexts c, and a mask or None: of programs that take ``(x, c)``."""

    x: Tensor
    y: Tensor | None
    mask: Tensor | None
    c: Tensor


class Unlabelled(NamedTuple):
    """A `Batch` without labels: a tuple that loaders can collate."""

    x: Tensor


class MaskedUnlabelled(NamedTuple):
    """A `MaskedBatch` without labels: a tuple that loaders can collate."""

    x: Tensor
    mask: Tensor


Item = Batch | MaskedBatch | ContextBatch | Unlabelled | MaskedUnlabelled
"""One datum of a data set, by name."""


@dataclass(frozen=True, eq=False)
class Part:
    """The data of one stream in a training step.

    Args:
        name: of the stream, for the history.
        args: positional arguments of model and guide, data first, one datum per row.
        weight: of the mean loss of these data in the step's objective; see `SemiSupervised`.
        kwargs: keyword arguments of model and guide, such as ``{"mask": mask}``.
    """

    name: str
    args: tuple[Tensor, ...]
    weight: int | float = 1.0
    kwargs: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of ``args``, then those of ``kwargs``."""
        return (*self.args, *self.kwargs.values())

    def __len__(self) -> int:
        """Return the number of data."""
        return len(self.tensors[0])

    @property
    def device(self) -> torch.device:
        """Where the data are."""
        return self.tensors[0].device

    @property
    def finite(self) -> bool:
        """Whether all observed values are finite."""
        mask = self.kwargs.get("mask")
        observed = (t if mask is None or mask.shape != t.shape else t[mask] for t in self.tensors)
        return all(t.isfinite().all() for t in observed)

    def rows(self, some: slice) -> Part:
        """Return some of the data."""
        return self.replaced(t[some] for t in self.tensors)

    def replaced(self, tensors: Iterator[Tensor]) -> Part:
        """Return the part with other tensors, in the order of `tensors`."""
        args = tuple(next(tensors) for _ in self.args)
        return Part(self.name, args, self.weight, {name: next(tensors) for name in self.kwargs})


Given = (
    Batch | MaskedBatch | ContextBatch | tuple[Tensor, ...] | dict[str, Tensor] | tuple[Part, ...]
)
"""A loader's batch: of a data set, or tensors by position, by name, or as parts."""


def given(owner: str, batch: object) -> Given:
    """Return a loader's batch in one of the forms of `Given`; names of None values are left out."""
    match batch:
        case Batch() | MaskedBatch() | ContextBatch():
            return batch
        case Unlabelled(x):
            return Batch(x, None)
        case MaskedUnlabelled(x, mask):
            return MaskedBatch(x, None, mask)
        case Tensor() | Part():
            return (batch,)  # type: ignore[return-value]
    if isinstance(batch, tuple) and hasattr(batch, "_asdict"):
        batch = batch._asdict()
    if isinstance(batch, Mapping):
        named = {name: value for name, value in batch.items() if value is not None}
        if named and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in named.items()):
            return named
    elif isinstance(batch, (tuple, list)) and batch:
        for kind in (Tensor, Part):
            if all(isinstance(value, kind) for value in batch):
                return tuple(batch)
    raise TypeError(
        f"{owner}: every batch must be a tensor, a tuple or list of tensors, a mapping of names to "
        f"tensors, or parts, got {_description(batch)}; return one from the loader's collate_fn"
    )


def tensors_of(batch: Given) -> Iterator[Tensor]:
    """Yield all tensors of a batch."""
    for value in batch.values() if isinstance(batch, dict) else batch:
        if isinstance(value, Part):
            yield from value.tensors
        elif value is not None:
            yield value


def _description(batch: object) -> str:
    if isinstance(batch, Mapping):
        kinds = ", ".join(f"{name!r}: {type(value).__name__}" for name, value in batch.items())
        return f"a mapping of {kinds or 'nothing'}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {', '.join(type(x).__name__ for x in batch) or '0'}"
    return describe(batch)
