"""What a batch was drawn from, so that a pair looks at the values of a data set once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ppl_vae.data.dataset import Dataset


class Source:
    """A data set and how its values are drawn; the same object for all batches of both.

    Args:
        dataset: the data set.
        binarise: as in `Dataset.draw`.
        dequantise: as in `Dataset.draw`.
    """

    def __init__(self, dataset: Dataset, binarise: str, dequantise: bool) -> None:
        self.dataset = dataset
        # Any draw of 0 and 1 stands for all others, and this one uses no random numbers.
        self.binarise = "threshold" if binarise == "dynamic" else binarise
        self.dequantise = dequantise

    def mark(self, x: Tensor) -> Tensor:
        """Write on a batch that it comes from here, as it is now."""
        x.drawn_from = (self, x._version)  # type: ignore[attr-defined]
        return x

    def in_parts(self) -> Iterator[Tensor]:
        """Yield all values, shape ``(batch, *event)``, a few thousand data at a time."""
        generator = torch.Generator(self.dataset.values.device).manual_seed(0)
        for index in torch.arange(len(self.dataset)).split(4096):
            yield self.dataset.draw(
                index,
                binarise=self.binarise,
                dequantise=self.dequantise,
                generator=generator,
                flat=False,
            )


def mark_range(y: Tensor, seen: tuple[int, int]) -> Tensor:
    """Write on labels between which values all are that they were drawn from, as they are now.

    A pair that looks for the range of each batch would wait for the device at every step.
    """
    y.range_seen = (y._version, *seen)  # type: ignore[attr-defined]
    return y
