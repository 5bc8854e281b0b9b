"""From stored values to what a model sees: binarised, dequantised, or scaled only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from ppl_vae.data.augmentation import augment
from ppl_vae.data.checks import check_representable, extremes, seeded_generator
from ppl_vae.data.columns import Columns
from ppl_vae.data.dequantisation import add_noise, count_levels
from ppl_vae.data.minibatch import Batch, ContextBatch, MaskedBatch
from ppl_vae.errors import describe, device_of, flag, seed_of
from ppl_vae.uniform_draws import uniform

BINARISE = ("dynamic", "static", "threshold", "none")
CHUNK = 4096
"""Items transformed at once where all are, at most, to bound memory."""
_CHUNK_VALUES = 2**24
"""Values of these, at most."""
_CHECKED_VALUES = 2**20
"""And where they are only looked at: fewer, which stay in the processor's cache."""

C = TypeVar("C", bound=Columns)


@dataclass(frozen=True)
class ValueTransform:
    """Maps stored values to x, NaN where missing, in a dtype, torch's default if None.

    Other arguments are those of `Dataset.draw`; "static" binarisation is that of `fixed`.
    """

    binarise: str = "dynamic"
    dequantise: bool = False
    flat: bool = True
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.binarise not in BINARISE:
            raise ValueError(
                f"binarise must be one of {', '.join(BINARISE)}, got {describe(self.binarise)}"
            )
        for name in ("dequantise", "flat"):
            object.__setattr__(self, name, flag("", name, getattr(self, name)))
        device_of("", self.device)

    def check(self, data: Columns, index: Tensor | None = None) -> None:
        """Raise ValueError unless the observed values, all or those at ``index``, are in range."""
        values = data.observed(index)
        if not values.numel():
            return
        low, high = (v / data.scale for v in extremes(values))
        dtype = torch.finfo(self._dtype)
        largest = max(-low, high)
        if largest > dtype.max or 0 < largest < dtype.tiny:
            default = "torch's default dtype, " if self.dtype is None else ""
            raise ValueError(
                f"values / scale of {data.name!r} must be within the range of {default}"
                f"{dtype.dtype}, got {low:g} to {high:g}; give another scale"
            )
        if self.binarise != "none" and not (low >= 0 and high <= 1):  # nor NaN
            raise ValueError(
                f"binarise={self.binarise!r} needs pixels in [0, 1], got values / scale from "
                f"{low:g} to {high:g} in {data.name!r}; give the scale that means 1.0, or "
                f"binarise='none'"
            )
        if data.scale == 1 and not values.is_floating_point():
            check_representable(values, self._dtype, data.name)
        if not self.dequantise:
            return
        if self.binarise != "none":
            raise ValueError(
                f"dequantise=True must come with binarise='none', got binarise={self.binarise!r}; "
                f"binarise for a Bernoulli, dequantise for a density, not both"
            )
        if dtype.bits < 32:
            raise ValueError(
                f"dequantise=True needs float32 or float64, got torch's default dtype "
                f"{dtype.dtype}, in which noise would round to another level"
            )
        count_levels(values, data.scale, data.name)

    def check_training(self, data: Columns) -> None:
        """Raise ValueError as `check` does, or if values would be binarised before a transform."""
        self.check(data)
        if data.augmentation is not None and self.binarise == "static":
            raise ValueError(
                f"binarise='static' draws values once, before the transform of {data.name!r}; give "
                f"'dynamic' or 'threshold', or augmented(None)"
            )

    def values(
        self, data: Columns, index: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return x at ``index``, for data that passed `check`. "static" must have been `fixed`."""
        x = self._drawn(data.values_at(index), data.scale, generator)
        return self._arranged(_with_gaps(x, data.mask_at(index, flat=False)))

    @property
    def _dtype(self) -> torch.dtype:
        return self.dtype or torch.get_default_dtype()

    def _drawn(self, rows: Tensor, scale: int | float, generator: torch.Generator | None) -> Tensor:
        """Return x for stored values, which are written to, before missing ones are NaN."""
        dtype = self._dtype
        precision = torch.promote_types(rows.dtype, torch.float32)
        if self.dequantise:
            return add_noise(rows.to(dtype), int(scale) + 1, generator)
        if self.binarise == "none":
            return rows.to(torch.promote_types(precision, dtype)).div_(scale).to(dtype)
        p = rows.to(precision).div_(scale)
        if self.binarise == "dynamic":
            # A third of the time of torch.bernoulli on a CPU; 0 and 1 stay as they are.
            return uniform(p.shape, generator, p.device).lt_(p).to(dtype)
        return (p > 0.5).to(dtype)

    def _arranged(self, values: Tensor) -> Tensor:
        return (values.flatten(1) if self.flat else values).to(device=self.device)

    def batch(
        self, data: Columns, index: Tensor, generator: torch.Generator | None = None
    ) -> Batch | MaskedBatch | ContextBatch:
        """Return x as `values` does, with the labels, the mask and the context, if any."""
        x = self.values(data, index, generator)
        mask = data.mask_at(index, flat=self.flat, device=self.device)
        return self._batch(data, index, x, mask)

    def training_batch(
        self, data: Columns, index: Tensor, generator: torch.Generator
    ) -> Batch | MaskedBatch | ContextBatch:
        """Return a batch as `batch` does, transformed before x is drawn if the data are augmented.

        "static" binarisation must not have been asked for, see `check_training`.
        """
        if data.augmentation is None:
            return self.batch(data, index, generator)
        x = augment(
            data.augmentation,
            ValueTransform("none", flat=False, dtype=self.dtype).values(data, index),
            generator,
            missing=data.mask is not None,
            levels=self.dequantise or self.binarise != "none",
        )
        mask = None if data.mask is None else ~x.isnan()
        if self.dequantise:
            x = self._drawn(x.mul_(data.scale).round_(), data.scale, generator)
        else:
            x = self._drawn(x, 1, generator)
        x = self._arranged(_with_gaps(x, mask))
        return self._batch(data, index, x, None if mask is None else self._arranged(mask))

    def _batch(
        self, data: Columns, index: Tensor, x: Tensor, mask: Tensor | None
    ) -> Batch | MaskedBatch | ContextBatch:
        """Return x with the labels and the context of its rows."""
        y = None if data.labels is None else data.labels[index].to(device=self.device)
        c = data.context_at(index, self.device, self._dtype)
        if c is not None:
            return ContextBatch(x, y, mask, c)
        return Batch(x, y) if mask is None else MaskedBatch(x, y, mask)

    def chunks(
        self, data: Columns, index: Tensor | None = None, seed: int | None = None
    ) -> Iterator[Tensor]:
        """Yield x of all data, or those at ``index``, without global random numbers.

        Without a seed, one possible x. Raises ValueError as `check` does.
        """
        transform = self
        if seed is None and self.binarise == "dynamic":  # thresholded values stand for any draw
            transform = replace(self, binarise="threshold")
        generator = seeded_generator(0 if seed is None else seed, data.values.device)
        self.check(data)
        rows = _chunk(data, _CHECKED_VALUES if seed is None else _CHUNK_VALUES)
        for some in (torch.arange(len(data)) if index is None else index).split(rows):
            yield transform.values(data, some, generator)

    def in_order(
        self, data: Columns, batch_size: int
    ) -> Iterator[Batch | MaskedBatch | ContextBatch]:
        """Yield all data in order, at most ``batch_size`` at a time, as after `fixed` with seed 0.

        They are drawn some at a time, and never held as a whole.
        """
        start = 0
        for some in self.chunks(data, seed=0):
            for x in some.split(batch_size):
                index = torch.arange(start, start + len(x))
                start += len(x)
                mask = data.mask_at(index, flat=self.flat, device=self.device)
                yield self._batch(data, index, x, mask)

    def fixed(self, data: C, seed: int = 0) -> tuple[C, ValueTransform]:
        """Return data that are binarised once, if at all, and the transform that remains."""
        if self.binarise == "none":
            return data, self
        return binarised(data, seed), replace(self, binarise="none")


def prepare(pair: object, data: C) -> tuple[C, ValueTransform]:
    """Return data in the shape that a pair declares, and the transform for its likelihood.

    Values strictly between 0 and 1 under a likelihood of 0 and 1 are grey levels, to be binarised,
    and so is what a transform of augmented data returns. Integers under a likelihood of counts are
    divided only by a scale that was given. Flat data and grey images are reshaped to the declared
    shape; x is flattened for a pair of flat data and for programs without an ``observation``.

    x has the dtype of the pair, or torch's default if that is wider.

    Raises ValueError if counts would be rounded in the dtype of the pair.
    """
    observation: Any = getattr(pair, "observation", None)
    dtype = _widest_dtype(pair)
    if observation is None:
        return data, ValueTransform("none", dtype=dtype)
    data = observation.prepared(data)
    if observation.is_integer:
        seen = data.observed()
        for dtype in {torch.get_default_dtype(), *_dtypes(pair)}:
            check_representable(seen, dtype, data.name)
    is_grey = observation.is_boolean and (data.augmentation is not None or _has_grey(data))
    flat = len(observation.event_shape) == 1
    return data, ValueTransform("dynamic" if is_grey else "none", flat=flat, dtype=dtype)


def binarised(data: C, seed: int) -> C:
    """Return the data with every pixel drawn once; see `Dataset.binarised`."""
    seed, transform = seed_of("", seed), ValueTransform("dynamic", flat=False)
    check_dense(data, "drawn once as 0 and 1")
    values = [x.nan_to_num_().to(torch.uint8) for x in transform.chunks(data, seed=seed)]
    return converted(data, torch.cat(values), f"drawn once as 0 and 1, seed {seed}")


def dequantised(data: C, seed: int) -> C:
    """Return the data with noise added once; see `Dataset.dequantised`."""
    seed, transform = seed_of("", seed), ValueTransform("none", dequantise=True, flat=False)
    check_dense(data, "dequantised")
    values = torch.cat([*transform.chunks(data, seed=seed)])
    return converted(data, values, f"noise added, seed {seed}", levels=data.levels)


def quantised(data: C) -> C:
    """Return dequantised data without their noise; see `Dataset.quantised`."""
    levels = data.dequantised_levels
    if levels is None:
        raise ValueError(f"quantised: {data.name!r} must be dequantised, got values without levels")
    check_dense(data, "quantised")
    values = [
        v.double().mul_(levels).floor_().clamp_(max=levels - 1).to(v.dtype)
        for v in data.values.split(CHUNK)  # bounds the memory of float64
    ]
    return replace(converted(data, torch.cat(values), "noise removed"), scale=levels - 1.0)


def converted(data: C, values: Tensor, conversion: str, *, levels: int | None = None) -> C:
    """Return the data with other values, of scale 1, and the conversion on record."""
    conversions = (*data.conversions, conversion)
    return replace(
        data,
        values=values,
        scale=1.0,
        dequantised_levels=levels,
        conversions=conversions,
    )


def _dtypes(pair: Any) -> set[torch.dtype]:
    """Return the dtypes of a pair's parameters."""
    programs = (getattr(pair, name, None) for name in ("model", "guide"))
    found: Iterator[Any] = (getattr(program, "parameters", tuple)() for program in programs)
    return {p.dtype for p in chain(*found) if p.is_floating_point()}


def _widest_dtype(pair: Any) -> torch.dtype | None:
    """Return the dtype of a pair that is wider than torch's default, None if it is not."""
    default = torch.get_default_dtype()
    widest = reduce(torch.promote_types, _dtypes(pair), default)
    return None if widest == default else widest


def _has_grey(data: Columns) -> bool:
    """Return whether an observed value is neither 0 nor the scale."""
    parts = (
        [None] if data.is_sparse else torch.arange(len(data)).split(_chunk(data, _CHECKED_VALUES))
    )
    for index in parts:
        values = data.observed(index)
        if ((values != 0) & (values != data.scale)).any():
            return True
    return False


def _chunk(data: Columns, values: int) -> int:
    """Return how many items have so many values, at most `CHUNK`."""
    return min(CHUNK, max(1, values // max(1, math.prod(data.event_shape))))


def _with_gaps(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x.masked_fill_(~mask, torch.nan)


def check_dense(data: Columns, what: str) -> None:
    """Raise ValueError for a sparse matrix, of which all would be made dense."""
    if data.is_sparse:
        raise ValueError(
            f"{data.name!r} is sparse and would be made dense to be {what}; give a dense Dataset, "
            f"or draw it batch by batch"
        )
