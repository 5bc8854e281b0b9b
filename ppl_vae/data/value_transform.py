"""How the values of a data set are drawn for a pair: decided here, for all that take both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae.data.checks import check_exact, observed
from ppl_vae.data.minibatch import Batch, MaskedBatch

if TYPE_CHECKING:
    from ppl_vae.data.dataset import Dataset


@dataclass(frozen=True)
class Drawing:
    """Data in the shape that a pair declares, and how their values are drawn for its likelihood.

    Under a likelihood of 0 and 1, values between them are grey levels, to be binarised: anew at
    each step of training, once (`once`) for all else. Under one of counts, integers are no grey
    levels: they are divided by a scale only where that was given. Under any other likelihood values
    are as they are. What is not flat is flattened for a pair of flat data, and for programs that
    declare nothing; flat data are given the declared shape, and grey images its channel.

    Args:
        data: in that shape, but for the flattening.
        binarise: ``"dynamic"`` or ``"none"``, as in `Dataset.draw`.
        flat: likewise.
    """

    data: Dataset
    binarise: str
    flat: bool

    @classmethod
    def of(cls, pair: object, data: Dataset) -> Drawing:
        """Decide for a pair, whose ``observation`` says what its data are, or for programs.

        Raises:
            ValueError: if counts would be rounded in the dtype of the pair.
        """
        observation: Any = getattr(pair, "observation", None)
        if observation is None:
            return cls(data, "none", True)
        data = observation.prepared(data)
        if observation.is_integer:
            seen = observed(data.values, data.mask)
            for dtype in {torch.get_default_dtype(), *_dtypes(pair)}:
                check_exact(seen, dtype, data.name)
        grey = observation.is_boolean and _has_grey(data)
        return cls(data, "dynamic" if grey else "none", len(observation.event_shape) == 1)

    def __len__(self) -> int:
        return len(self.data)

    def once(self, seed: int = 0) -> Drawing:
        """Return the same of data that are binarised once, where they are to be."""
        if self.binarise == "none":
            return self
        return replace(self, data=self.data.binarised(seed), binarise="none")

    def at(self, index: Tensor) -> Batch | MaskedBatch:
        """Draw the data at these places."""
        x = self.data.draw(index, binarise=self.binarise, flat=self.flat)
        y = self.data._labels_at(index, None)
        mask = self.data.mask_at(index, flat=self.flat)
        return Batch(x, y) if mask is None else MaskedBatch(x, y, mask)

    def in_batches(self, size: int) -> Iterator[Batch | MaskedBatch]:
        """Draw all data in their order, ``size`` at a time."""
        for index in torch.arange(len(self)).split(size):
            yield self.at(index)


def _dtypes(pair: Any) -> set[torch.dtype]:
    """Return the dtypes of a pair's parameters."""
    found = (p for part in (pair.model, pair.guide) for p in part.parameters())
    return {p.dtype for p in found if p.is_floating_point()}


def _has_grey(data: Dataset) -> bool:
    """Tell whether a value that is observed is neither 0 nor the scale."""
    masks = [None] * len(data) if data.mask is None else data.mask.split(4096)
    for values, mask in zip(data.values.split(4096), masks, strict=False):
        grey = (values != 0) & (values != data.scale)
        if (grey if mask is None else grey & mask).any():
            return True
    return False
