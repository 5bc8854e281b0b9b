"""Values and labels in memory, and their epochs of batches."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor

from ppl_vae.data.batches import Batches
from ppl_vae.data.binarise import check_mode, drawn
from ppl_vae.data.checks import check_values, checked_labels, generator_of, index_of, observed
from ppl_vae.data.dequantise import check_alone, levels_of, noisy
from ppl_vae.data.splits import held_out, per_class_indices
from ppl_vae.errors import (
    describe,
    device_of,
    flag,
    number,
    positive_int,
    seed_of,
    sizes,
)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Values and labels in memory. Immutable: every method returns a new dataset.

    Args:
        values: shape ``(N, *event)``, uint8 or floating, images ``(N, channels, height, width)``;
            held, not copied: nothing may write to them while batches are drawn.
        labels: integers 0, 1, ... of shape ``(N,)``, kept as int64; None if there are none.
        name: for messages and reports.
        scale: the value that means 1.0 (white, full ink): 255 for 8-bit images, 1 for 0/1 or for
            real values that are to stay as they are.
        mask: boolean, of the values' shape, True where a value is observed; None if all are. What
            the others hold is never looked at.

    Raises:
        TypeError: the dtype of values, labels or mask cannot be used.
        ValueError: no data; NaN or infinite values that are observed, or uint8 values above
            ``scale``; labels of another length or negative; a mask of another shape, or one by
            which nothing is observed.
    """

    values: Tensor
    labels: Tensor | None = None
    name: str = "data"
    _: KW_ONLY
    scale: int | float = 1.0
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.mask, Tensor):
            object.__setattr__(self, "mask", self.mask.to(self.values.device))
        check_values(self.values, self.scale, self.mask)
        object.__setattr__(self, "scale", number("", "scale", self.scale, above=0))
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, got {describe(self.name)}")
        if self.labels is not None:
            object.__setattr__(self, "labels", checked_labels(self.labels, len(self)))

    def __len__(self) -> int:
        return self.values.shape[0]

    def __repr__(self) -> str:
        size = f"{len(self)} x {self.event_shape}, {self.values.dtype} / {self.scale:g}"
        classes = "no labels" if self.labels is None else f"{self.num_classes} classes"
        missing = ""
        if self.mask is not None:
            missing = f", {100 * (1 - self.mask.double().mean().item()):.3g} % missing"
        return f"Dataset({self.name!r}, {size}, {classes}{missing})"

    def __getstate__(self) -> dict[str, object]:
        """Return what is copied and pickled: of values that are a part of others, this part alone.

        torch writes the whole memory of a tensor.
        """
        state = dict(vars(self))
        for name, value in state.items():
            if isinstance(value, Tensor):
                whole = value.untyped_storage().nbytes()
                part = value.numel() * value.element_size() < whole
                state[name] = value.clone() if part else value
        return state

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one item, before flattening."""
        return tuple(self.values.shape[1:])

    @property
    def num_classes(self) -> int:
        """The largest label plus one. Raises ValueError without labels."""
        return int(self._required_labels("num_classes").max()) + 1

    @property
    def levels(self) -> int:
        """The number of grey levels of integer data, scale + 1.

        Raises ValueError unless the values are integers 0, ..., scale.
        """
        return levels_of(self._observed, self.scale, self.name)

    def to(self, device: torch.device | str) -> Dataset:
        """Hold all of it on ``device``; batches are then drawn and binarised there."""
        device = device_of("to", device)
        labels = None if self.labels is None else self.labels.to(device)
        mask = None if self.mask is None else self.mask.to(device)
        return replace(self, values=self.values.to(device), labels=labels, mask=mask)

    def unflattened(self, event_shape: Sequence[int]) -> Dataset:
        """Give flat items a shape, their entries in the order they have.

        Raises ValueError where the items are not flat, or have another number of entries.
        """
        event_shape = sizes("unflattened", "event_shape", event_shape)
        if len(self.event_shape) != 1 or self.event_shape[0] != math.prod(event_shape):
            raise ValueError(
                f"unflattened: items must be flat, of {math.prod(event_shape)} entries for the "
                f"shape {tuple(event_shape)}, got {self!r}"
            )
        shape = (len(self), *event_shape)
        mask = None if self.mask is None else self.mask.reshape(shape)
        return replace(self, values=self.values.reshape(shape), mask=mask)

    def subset(self, indices: Tensor | np.ndarray | Sequence[int]) -> Dataset:
        """Keep the items at ``indices`` (integers, or a mask of N booleans), in that order."""
        index = index_of("indices", indices, len(self)).to(self.values.device)
        labels = None if self.labels is None else self.labels[index]
        mask = None if self.mask is None else self.mask[index]
        return replace(self, values=self.values[index], labels=labels, mask=mask)

    def labelled_subset(self, per_class: int, seed: int = 0) -> Int64[Tensor, " labelled"]:
        """Choose ``per_class`` random items of every class that occurs; return their indices.

        Raises ValueError without labels, or where a class has fewer items.

        Example:
            >>> from ppl_vae.data import load
            >>> chosen = load("digits").labelled_subset(10, seed=0)  # 100 labels, the rest hidden
            >>> len(chosen)
            100
        """
        per_class = positive_int("labelled_subset", "per_class", per_class)
        seed = seed_of("labelled_subset", seed)
        labels = self._required_labels("labelled_subset")
        return per_class_indices(labels, per_class, seed, self.name)

    def split(self, test_fraction: int | float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Split at random into ``(train, test)``, each class in proportion if there are labels.

        Depends on the seed, the labels and N alone. Raises ValueError where a side would be empty.
        """
        test_fraction = number("split", "test_fraction", test_fraction)
        seed = seed_of("split", seed)
        held = held_out(len(self), test_fraction, self.labels, seed)
        if held is None:
            raise ValueError(
                f"split: test_fraction must leave items on both sides of {self.name!r} "
                f"({len(self)} items), got {test_fraction}; give a fraction such as 0.1"
            )
        return self.subset(~held), self.subset(held)

    def binarised(self, seed: int = 0) -> Dataset:
        """Draw every pixel once: a dataset of 0 and 1, the same for the same seed.

        Raises ValueError where ``value / scale`` leaves [0, 1].
        """
        generator = self._generator(seed)
        parts = torch.arange(len(self)).split(4096)  # bounds the memory of the float draws
        draws = (
            self.draw(i, generator=generator, flat=False).nan_to_num_().to(torch.uint8)
            for i in parts
        )
        return replace(self, values=torch.cat(list(draws)), scale=1.0)

    def dequantised(self, seed: int = 0) -> Dataset:
        r"""Add uniform noise once: real values v = (k + u) / levels in (0, 1), with scale 1.

        k are the integers of the dataset, and u ~ U[0, 1) at every element; the same seed gives
        the same noise. A density p of v gives the mass P(k) = ∫ p((k + u) / levels) du / levels^D
        of the D integers of an item, and by Jensen's inequality, in nats,

            log P(k) ≥ E_u[log p(v)] - D log levels:

        what a model of v reaches, less D log levels, can be compared with the log-mass of integers
        under `ppl_vae.likelihoods.Categorical` or `DiscretisedLogisticMixture`. Without the noise,
        a density can be made as large as one likes by concentrating it on the levels.

        Source: Uria et al. 2013 (arXiv 1306.0186); Theis et al. 2016 (arXiv 1511.01844), section
        3.1.

        Raises ValueError unless the values are integers 0, ..., scale.

        Example:
            >>> from ppl_vae.data import load
            >>> digits = load("digits")
            >>> digits.levels
            17
            >>> digits.dequantised(seed=0)
            Dataset('digits', 1437 x (1, 8, 8), torch.float32 / 1, 10 classes)
        """
        generator = self._generator(seed)
        parts = torch.arange(len(self)).split(4096)
        draws = (
            self.draw(i, binarise="none", dequantise=True, generator=generator, flat=False)
            for i in parts
        )
        return replace(self, values=torch.cat(list(draws)), scale=1.0)

    def draw(
        self,
        index: Integer[Tensor, " batch"],
        *,
        binarise: str = "dynamic",
        dequantise: bool = False,
        generator: torch.Generator | None = None,
        flat: bool = True,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, " batch *event"]:
        """Return the items at ``index``, ``(B, D)`` if flat, else ``(B, *event)``.

        They are in torch's default dtype, whatever that of the values; which pixels are drawn as 1
        does not depend on it. The batch owns its memory, and knows nothing of the data set.

        They are NaN where they are missing; see `mask_at`.

        Args:
            index: integers, shape ``(B,)``.
            binarise: what to do with the grey value p = value / scale.
                ``"dynamic"``: a Bernoulli(p) draw, anew at every call.
                ``"static"``: drawn once, as ``binarised(seed=0)``, whatever the batch. That is made
                anew at every call: draw from what `binarised` returns where there are many, or for
                another seed. Binarise first, take subsets after.
                ``"threshold"``: p > 0.5. ``"none"``: p itself.
            dequantise: with ``binarise="none"``, return (k + u) / levels for the integers k, with
                u ~ U[0, 1) anew at every call, for a likelihood that is a density; see
                `dequantised`.
            generator: for the dynamic draw and the noise, on the values' device; None is torch's
                global one.
            flat: flatten the event.
            device: where the result goes; None leaves it where the values are.

        Raises:
            ValueError: unknown mode, or values to be binarised outside [0, 1]; values to be
                dequantised that are no integers, or are to be binarised too, or would be of a dtype
                with fewer bits than float32.

        Example:
            >>> from ppl_vae.data import load
            >>> load("digits").draw(torch.arange(3), binarise="threshold", flat=False).shape
            torch.Size([3, 1, 8, 8])
        """
        index = index_of("index", index, len(self))
        dequantise, flat = flag("draw", "dequantise", dequantise), flag("draw", "flat", flat)
        device, generator = device_of("draw", device), generator_of("draw", generator)
        if binarise == "static":
            self._check_modes(binarise, dequantise, self._observed)
            return self.binarised(seed=0).draw(index, binarise="none", flat=flat, device=device)
        rows = observed(self._rows(index), self.mask_at(index, flat=False))
        self._check_modes(binarise, dequantise, rows)
        return self._drawn(index, binarise, dequantise, generator, flat, device)

    def mask_at(
        self,
        index: Integer[Tensor, " batch"],
        *,
        flat: bool = True,
        device: torch.device | str | None = None,
    ) -> Bool[Tensor, " batch *event"] | None:
        """Return what is observed of the items at ``index``, of the shape of their `draw`.

        None where the data set has no mask.
        """
        if self.mask is None:
            return None
        rows = self.mask.index_select(0, self._from_zero(index))
        return (rows.flatten(1) if flat else rows).to(device=device)

    def in_parts(self) -> Iterator[Float[Tensor, " batch *event"]]:
        """Yield all grey values, value / scale, a few thousand at a time, NaN where missing."""
        for index in torch.arange(len(self)).split(4096):
            yield self.draw(index, binarise="none", flat=False)

    def batches(
        self,
        batch_size: int,
        *,
        binarise: str = "dynamic",
        dequantise: bool = False,
        shuffle: bool = True,
        seed: int = 0,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        flat: bool = True,
        device: torch.device | str | None = None,
    ) -> Batches:
        """Return the epochs of this dataset: ``for x, labels in dataset.batches(100): ...``.

        With a mask, ``for x, labels, mask in ...``: x is NaN where it is missing.

        Every iteration is a new epoch that goes on where the generator stands, so the order and the
        dynamic draws and the noise differ from epoch to epoch and all follow from one seed. torch's
        global generator is not touched. `Batches.state_dict` resumes anywhere in an epoch.

        Args:
            batch_size: items per batch; the last batch is shorter if N is no multiple.
            binarise: as in `draw`.
            dequantise: as in `draw`.
            shuffle: a new order in each epoch, else the order of the data.
            seed: of the order, the dynamic draws and the noise.
            generator: used in place of ``seed`` if given; on the device of the values.
            drop_last: leave a short last batch out.
            flat: as in `draw`.
            device: as in `draw`, for the labels too.
        """
        dequantise = flag("batches", "dequantise", dequantise)
        self._check_modes(binarise, dequantise, self._observed)
        given = generator_of("batches", generator)
        return Batches(
            dataset=self,
            batch_size=batch_size,
            binarise=binarise,
            dequantise=dequantise,
            shuffle=flag("batches", "shuffle", shuffle),
            generator=self._generator(seed) if given is None else given,
            drop_last=flag("batches", "drop_last", drop_last),
            flat=flag("batches", "flat", flat),
            device=device_of("batches", device),
        )

    def _labels_at(self, index: Tensor, device: torch.device | str | None) -> Tensor | None:
        """Return the labels of the items at ``index``, if there are any."""
        if self.labels is None:
            return None
        return self.labels[index].to(device=device)

    def _from_zero(self, index: Tensor) -> Tensor:
        """Return indices on the values' device, those counted from the end counted from zero."""
        index = index.to(self.values.device, torch.int64)
        return torch.where(index < 0, index + len(self), index)

    def _rows(self, index: Tensor) -> Tensor:
        """Return a copy of the values at ``index``."""
        # Rows are copied whole, many times faster than by values[index].
        return self.values.index_select(0, self._from_zero(index))

    def _drawn(
        self,
        index: Tensor,
        binarise: str,
        dequantise: bool,
        generator: torch.Generator | None,
        flat: bool,
        device: torch.device | str | None,
    ) -> Tensor:
        """Return what `draw` does, of values that were looked at before."""
        rows = self._rows(index)
        dtype = torch.get_default_dtype()
        precision = torch.promote_types(rows.dtype, torch.float32)
        if dequantise:
            x = noisy(rows.to(dtype), int(self.scale) + 1, generator)
        elif binarise == "none":
            x = rows.to(torch.promote_types(precision, dtype)).div_(self.scale).to(dtype)
        else:
            x = drawn(rows.to(precision).div_(self.scale), binarise, generator).to(dtype)
        mask = self.mask_at(index, flat=False)
        if mask is not None:
            x = x.masked_fill_(~mask, torch.nan)
        return (x.flatten(1) if flat else x).to(device=device)

    @property
    def _observed(self) -> Tensor:
        return observed(self.values, self.mask)

    @cached_property
    def _missing(self) -> dict[str, str]:
        """What is missing, in a few letters: other data must not be gone on with."""
        if self.mask is None:
            return {}
        entries = zlib.crc32(self.mask.cpu().numpy().tobytes())
        return {"missing": f"{int((~self.mask).sum())} entries, {entries:08x}"}

    def _check_modes(self, binarise: str, dequantise: bool, values: Tensor) -> None:
        """Raise ValueError unless these of the values can be drawn so."""
        if not values.numel():
            return
        low, high = (v.item() / self.scale for v in values.aminmax())
        dtype = torch.finfo(torch.get_default_dtype())
        size = max(-low, high)
        if size > dtype.max or 0 < size < dtype.tiny:
            raise ValueError(
                f"values / scale of {self.name!r} go from {low:g} to {high:g}, beyond torch's "
                f"default dtype, {dtype.dtype}, of which draws are; give another scale"
            )
        check_mode(binarise, low, high, self.name)
        if dequantise:
            check_alone(binarise)
            levels_of(values, self.scale, self.name)

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.values.device).manual_seed(seed_of("", seed))

    def _required_labels(self, owner: str) -> Tensor:
        if self.labels is None:
            raise ValueError(f"{owner}: {self.name!r} must have labels, got None; give labels=")
        return self.labels
