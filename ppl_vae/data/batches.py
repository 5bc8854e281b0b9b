"""Epochs of batches that resume exactly from a saved state."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ppl_vae.data.columns import Columns
from ppl_vae.data.loader_state import Epochs, Progress, SavedState, generator_at
from ppl_vae.data.value_transform import ValueTransform
from ppl_vae.errors import positive_int


@dataclass(frozen=True, kw_only=True)
class Batches(Epochs):
    """The epochs of a dataset, from `Dataset.batches`; ``len()`` is the number of batches in one.

    Every iteration is a new epoch, even if the one before it was left early. `state_dict` and
    `load_state_dict` resume in the middle of one, bit for bit.

    Yields a `Batch`, which unpacks as ``x, y``; with a mask a `MaskedBatch`, ``x, y, mask``, so
    that a loop that would ignore the mask fails.

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

    dataset: Columns
    transform: ValueTransform
    batch_size: int
    shuffle: bool
    generator: torch.Generator = field(repr=False)
    drop_last: bool
    _progress: Progress = field(default_factory=Progress, init=False, repr=False, compare=False)
    # The data and transform after "static" binarisation.
    _source: Columns = field(init=False, repr=False, compare=False)
    _transform: ValueTransform = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        size = positive_int("batches", "batch_size", self.batch_size)
        self.transform.check_training(self.dataset)
        source, transform = self.dataset, self.transform
        if transform.binarise == "static":
            source, transform = transform.fixed(source)
        vars(self).update(batch_size=size, _source=source, _transform=transform)
        if not len(self):
            raise ValueError(
                f"batches: drop_last=True must leave a batch, got batch_size={size} for "
                f"{len(self.dataset)} items; lower batch_size"
            )

    def __len__(self) -> int:
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    @property
    def labels(self) -> Int64[Tensor, " data"] | None:
        """The labels of the data set, None if there are none."""
        return self.dataset.labels

    @property
    def dequantised_levels(self) -> int | None:
        """How many levels the values had before noise was added; None without noise."""
        return self.dataset.levels if self.transform.dequantise else self.dataset.dequantised_levels

    def __iter__(self) -> Iterator[Any]:  # Any, so that type checkers let `x, y` unpack
        iteration = self._progress.begin()
        order = self._order()
        for index in order.split(self.batch_size)[self.position : len(self)]:
            self._progress.check("Batches", iteration)
            batch = self._transform.training_batch(self._source, index, self.generator)
            self._progress.advance(iteration)
            yield batch
        self._progress.end(iteration)

    def in_parts(self) -> Iterator[Float[Tensor, " batch *event"]]:
        """Yield one possible draw of all data, a few thousand items at a time, to check values.

        Raises ValueError if values were changed in place and are out of range now.
        """
        return self._transform.chunks(self._source)

    def state_dict(self) -> dict[str, object]:
        """Return the position in the epoch and the random state: numbers, strings and tensors.

        Call it between batches. After the last batch of an epoch, the position is that epoch's end,
        from where an iteration yields nothing; once the loop is over, the next epoch's start.
        """
        now = self.generator.get_state()
        return {
            "epoch": self.epoch,
            "position": self.position,
            "start": self._progress.start.clone() if self.position else now.clone(),
            "generator": now,
            "settings": self._settings,
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Resume from ``state``: the next iteration yields the rest of that epoch, bit for bit.

        The order is drawn again from the random state at the epoch's start; skipped batches are not
        drawn. An iteration that is under way must not continue.

        Raises TypeError or ValueError unless it is a state of `Batches` of the same data, settings
        and device type; nothing has changed then.
        """
        saved = SavedState("Batches", state, self.state_dict())
        epoch, position = saved.count("epoch"), saved.count("position", len(self))
        start, now = (saved.random_state(k, self.generator) for k in ("start", "generator"))
        self.generator.set_state(now)
        self._progress.restore(epoch, position)
        self._progress.start = start

    @cached_property
    def _settings(self) -> dict[str, object]:
        """What a resumed loader must have in common."""
        settings: dict[str, object] = {
            "items": len(self.dataset),
            "event_shape": list(self.dataset.event_shape),
            "batch_size": self.batch_size,
            "binarise": self.transform.binarise,
            "dequantise": self.transform.dequantise,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "device": self.generator.device.type,
        }
        if self.dataset.augmentation is not None:
            settings["augmented"] = True
        if (mask := self.dataset.mask) is not None:
            checksum = zlib.crc32(mask.cpu().numpy().tobytes())
            settings["missing"] = f"{int((~mask).sum())} entries, {checksum:08x}"
        return settings

    def _order(self) -> Tensor:
        """Return the order of the epoch, drawn at its start and again where it is resumed."""
        generator, count = self.generator, len(self.dataset)
        if self.position:
            generator = generator_at(generator, self._progress.start)
        else:
            self._progress.start = generator.get_state()
        device = self.dataset.values.device
        if self.shuffle:
            return torch.randperm(count, generator=generator, device=device)
        return torch.arange(count, device=device)
