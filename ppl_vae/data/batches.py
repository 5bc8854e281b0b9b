"""The epochs of a dataset, which go on exactly where a saved state says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ppl_vae.data.loader_state import Epochs, check_state, in_state, place, random_state
from ppl_vae.data.minibatch import Batch, MaskedBatch
from ppl_vae.errors import positive_int

if TYPE_CHECKING:
    from ppl_vae.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The epochs of a dataset, from `Dataset.batches`; ``len()`` is the number of batches in one.

    Every iteration is a new epoch, also where the one before it was left early. `state_dict` and
    `load_state_dict` resume in the middle of one, bit for bit; saving and restoring
    ``generator.get_state()`` between epochs does so too.

    A batch is a `Batch`, which unpacks as ``x, y``. Of a data set with a mask it is a
    `MaskedBatch`, ``x, y, mask``: a loop that would leave the mask out fails.

    Example:
        >>> from ppl_vae.data import load
        >>> digits = load("digits")
        >>> batches = digits.batches(500, seed=1)
        >>> x, y = next(iter(batches))
        >>> state = batches.state_dict()
        >>> resumed = digits.batches(500)
        >>> resumed.load_state_dict(state)
        >>> [len(x) for x, y in resumed]  # the rest of the epoch
        [500, 437]
    """

    dataset: Dataset
    batch_size: int
    binarise: str
    dequantise: bool
    shuffle: bool
    generator: torch.Generator = field(repr=False)
    drop_last: bool
    flat: bool
    device: torch.device | str | None
    _epochs: Epochs = field(default_factory=Epochs, init=False, repr=False, compare=False)
    _drawn_from: Dataset = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        once = self.binarise == "static"
        source = self.dataset.binarised(seed=0) if once else self.dataset
        object.__setattr__(self, "_drawn_from", source)
        size = positive_int("batches", "batch_size", self.batch_size)
        object.__setattr__(self, "batch_size", size)
        if not len(self):
            raise ValueError(
                f"batches: drop_last=True must leave a batch, got batch_size={self.batch_size} for "
                f"{len(self.dataset)} items; lower batch_size or keep the last batch"
            )

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    @property
    def epoch(self) -> int:
        """The number of the epoch under way, from 0; of the next one where none is."""
        return self._epochs.epoch

    @property
    def position(self) -> int:
        """How many batches of the epoch were handed out."""
        return self._epochs.position

    def __iter__(self) -> Iterator[Any]:  # Any, so that type checkers let `x, y` unpack
        iteration = self._epochs.begin()
        order = self._order()
        for index in order.split(self.batch_size)[self.position : len(self)]:
            self._epochs.check("Batches", iteration)
            x = self._draw(index, self.binarise, self.generator)
            y = self.dataset._labels_at(index, self.device)
            mask = self.dataset.mask_at(index, flat=self.flat, device=self.device)
            self._epochs.advance(iteration)
            yield Batch(x, y) if mask is None else MaskedBatch(x, y, mask)
        self._epochs.end(iteration)

    @property
    def labels(self) -> Int64[Tensor, " data"] | None:
        """The labels of the data set, None if there are none."""
        return self.dataset.labels

    @property
    def dequantised_levels(self) -> int | None:
        """How many levels the values had before noise was added; None where none was."""
        return self.dataset.levels if self.dequantise else self.dataset.dequantised_levels

    def in_parts(self) -> Iterator[Float[Tensor, " batch *event"]]:
        """Yield all data as they are drawn, a few thousand at a time: what any draw is like.

        Raises ValueError where values that were written to can no longer be drawn so.
        """
        source = self._drawn_from
        source._check_modes(self.binarise, self.dequantise, source._observed)
        # Any draw of 0 and 1 stands for all others, and this one uses no random numbers.
        mode = "threshold" if self.binarise == "dynamic" else self.binarise
        generator = torch.Generator(self.dataset.values.device).manual_seed(0)
        for index in torch.arange(len(self.dataset)).split(4096):
            yield self._draw(index, mode, generator)

    def _draw(self, index: Tensor, mode: str, generator: torch.Generator) -> Tensor:
        """Return a batch, of values that were looked at when these batches were made."""
        source = self._drawn_from
        mode = "none" if mode == "static" else mode
        return source._drawn(index, mode, self.dequantise, generator, self.flat, self.device)

    def state_dict(self) -> dict[str, object]:
        """Return the place: what was handed out so far, and the random state for what comes.

        Numbers, strings and tensors alone, which :func:`ppl_vae.io.save_state` writes. Ask
        between batches. After the last batch of an epoch, the place is that epoch's end, from
        where an iteration yields nothing; once the loop is over, it is the next epoch's start.
        """
        now = self.generator.get_state()
        return {
            "epoch": self.epoch,
            "position": self.position,
            "start": self._epochs.start.clone() if self.position else now.clone(),
            "generator": now,
            "settings": {
                "items": len(self.dataset),
                "event_shape": list(self.dataset.event_shape),
                "batch_size": self.batch_size,
                "binarise": self.binarise,
                "dequantise": self.dequantise,
                "shuffle": self.shuffle,
                "drop_last": self.drop_last,
                "device": self.generator.device.type,
                **self.dataset._missing,
            },
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from ``state``: the next iteration yields the rest of that epoch, bit for bit.

        The order is made again from the random state at the epoch's start; no batch is drawn
        again. The seed of these batches does not matter. A loop that is under way may not go on.

        Raises:
            TypeError: not a dict.
            ValueError: a state of other data (by number or shape), of data drawn in another way or
                on another kind of device; no state of batches. Nothing has changed.
        """
        check_state("Batches", state, self.state_dict())
        epoch = place("Batches", state, "epoch")
        position = place("Batches", state, "position", len(self))
        start, now = (
            random_state("Batches", state, key, self.generator) for key in ("start", "generator")
        )
        self.generator.set_state(now)
        self._epochs.restore(epoch, position)
        self._epochs.start = start

    def _order(self) -> Tensor:
        """Return the order of the epoch: drawn at its start, and as it was drawn later on."""
        generator, count = self.generator, len(self.dataset)
        if self.position:
            generator = in_state(generator, self._epochs.start)
        else:
            self._epochs.start = generator.get_state()
        device = self.dataset.values.device
        if self.shuffle:
            return torch.randperm(count, generator=generator, device=device)
        return torch.arange(count, device=device)
