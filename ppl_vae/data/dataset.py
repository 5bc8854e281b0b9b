"""Values and labels in memory, and their epochs of batches."""

from __future__ import annotations

import operator
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, SupportsIndex, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor

from ppl_vae.data.batches import Batches
from ppl_vae.data.binarisation import check_mode, drawn
from ppl_vae.data.checks import (
    check_exact,
    check_values,
    default_scale,
    generator_of,
    held,
    index_of,
    observed,
)
from ppl_vae.data.dequantisation import check_alone, checked_levels, levels_of, noisy
from ppl_vae.data.labels import numbered
from ppl_vae.data.minibatch import Batch, Item, MaskedBatch, MaskedUnlabelled, Unlabelled
from ppl_vae.data.splits import held_out, per_class_indices
from ppl_vae.data.value_transform import Drawing
from ppl_vae.errors import (
    describe,
    device_of,
    flag,
    number,
    positive_int,
    quoted,
    reason,
    seed_of,
    sizes,
)
from ppl_vae.event_shapes import how_to_arrange, same_event
from ppl_vae.tensors import as_tensor

if TYPE_CHECKING:  # what is kept
    _Values = Tensor
    _Labels = Tensor
    _Classes = tuple[str, ...]
    _Scale = int | float
else:  # what is taken
    _Values = Tensor | np.ndarray
    _Labels = Tensor | np.ndarray | Sequence[object]
    _Classes = Sequence[str]
    _Scale = int | float | None


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Values and labels in memory. Immutable: every method returns a new dataset.

    ``dataset[i]`` is one datum by name, a tuple of those of ``x``, ``y`` and ``mask`` that there
    are: x as value / scale, of the event's shape, NaN where it is missing. A
    ``torch.utils.data.DataLoader`` collates such data into batches that training and evaluation
    take. ``dataset[i:j]`` is a dataset. `batches` is many times faster, draws grey values as 0 and
    1, and resumes.

    Args:
        values: a tensor, or an array of NumPy, of shape ``(N, *event)``, integers or floating,
            images ``(N, channels, height, width)`` or, grey, ``(N, height, width)``. A tensor is
            held, not copied: nothing may write to it while batches are drawn. (Booleans are copied
            as uint8, unsigned integers of more than 8 bits as signed ones.) An array is copied.
        labels: of shape ``(N,)``: whole numbers 0, 1, ..., or strings, which are numbered in sorted
            order; a tensor, an array or a list. A datum has none where its label is -1, NaN, None,
            an empty string or hidden by a masked array. Kept as int64, -1 for no label. None if
            there are none.
        name: for messages and reports.
        scale: the value that means 1.0 (white, full ink): 255 for 8-bit images, 1 for 0/1, counts
            or real values that are to stay as they are. Left out, it is 255 for uint8 values of
            which any is above 1, and 1 for all others; a likelihood of counts then takes all as
            they are, see `as_counts`.
        mask: boolean, of the values' shape, True where a value is observed; None if all are. What
            the others hold is never looked at.
        classes: the names of the classes, in the order of their numbers; those of the labels, where
            they are strings, if not given. Give those of the training data with other data, so that
            both are numbered alike.
        conversions: what was done to the values before, in words, for messages and reports.
        dequantised_levels: of values (k + u) / levels, as `dequantised` makes them, how many levels
            the integers k had; None for values without such noise. Evaluation reads it: a density
            of these values, and of no others, bounds the mass of integers.

    Raises:
        TypeError: the dtype of values, labels or mask cannot be used.
        ValueError: no data; NaN or infinite values that are observed, or integers above a
            ``scale`` other than 1; labels of another length, that are fractions, or below -1, or
            not among the classes; a mask of another shape, or one by which nothing is observed.

    Example:
        >>> Dataset(np.random.rand(4, 2), ["cat", "dog", None, "cat"], "pets")
        Dataset('pets', 4 x (2,), torch.float64 / 1, 2 classes (cat, dog), 1 without a label)
    """

    values: _Values
    labels: _Labels | None = None
    name: str = "data"
    _: KW_ONLY
    scale: _Scale = None  # type: ignore[assignment]
    mask: _Values | None = None
    classes: _Classes | None = None
    conversions: tuple[str, ...] = ()
    _scale_left_out: bool = field(default=False, repr=False)
    dequantised_levels: int | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            values: Tensor | np.ndarray,
            labels: Tensor | np.ndarray | Sequence[object] | None = None,
            name: str = "data",
            *,
            scale: int | float | None = None,
            mask: Tensor | np.ndarray | None = None,
            classes: Sequence[str] | None = None,
            conversions: tuple[str, ...] = (),
            dequantised_levels: int | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        for name in ("values", "mask"):
            if isinstance(array := getattr(self, name), np.ndarray):
                object.__setattr__(self, name, as_tensor(name, array))
        object.__setattr__(self, "values", held(self.values))
        if isinstance(self.mask, Tensor):
            object.__setattr__(self, "mask", self.mask.to(self.values.device))
        if self.scale is None:
            object.__setattr__(self, "scale", default_scale(self.values, self.mask))
            object.__setattr__(self, "_scale_left_out", True)
        check_values(self.values, self.scale, self.mask)
        object.__setattr__(self, "scale", number("", "scale", self.scale, above=0))
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, got {describe(self.name)}")
        if self.dequantised_levels is not None:
            levels = checked_levels(self._observed, self.scale, self.dequantised_levels, self.name)
            object.__setattr__(self, "dequantised_levels", levels)
        if self.labels is not None:
            labels, classes = numbered(self.labels, len(self), self.classes)
            object.__setattr__(self, "labels", labels.to(self.values.device))
            object.__setattr__(self, "classes", classes)
        elif self.classes is not None:
            raise ValueError(
                f"classes are names of labels, and {self.name!r} has none; give labels="
            )

    def __len__(self) -> int:
        return self.values.shape[0]

    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    @overload
    def __getitem__(self, index: SupportsIndex) -> Item: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Item | Dataset:
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        try:
            place = range(len(self))[operator.index(index)]
        except TypeError:
            raise TypeError(
                f"{self.name!r}[...] takes an integer or a slice, got {describe(index)}; choose "
                f"items with subset(indices)"
            ) from None
        except IndexError:
            raise IndexError(
                f"{self.name!r} has {len(self)} items, got the index {index}"
            ) from None
        return self.__getitems__([place])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return the items at ``indices``: what a ``DataLoader`` asks for, a batch at once."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        kinds = (Unlabelled, Batch) if self.mask is None else (MaskedUnlabelled, MaskedBatch)
        columns = (
            self.draw(index, binarise="none", flat=False),
            self._labels_at(index, None),
            self.mask_at(index, flat=False),
        )
        there = [column for column in columns if column is not None]
        return [kinds[self.labels is not None](*item) for item in zip(*there, strict=True)]

    def __repr__(self) -> str:
        size = f"{len(self)} x {self.event_shape}, {self.values.dtype} / {self.scale:g}"
        classes = "no labels" if self.labels is None else self._classes_in_words()
        missing = ""
        if self.mask is not None:
            missing = f", {100 * (1 - self.mask.double().mean().item()):.3g} % missing"
        noise = ""
        if self.dequantised_levels is not None:
            noise = f", dequantised from {self.dequantised_levels} levels"
        done = "".join(f"; {conversion}" for conversion in self.conversions)
        return f"Dataset({self.name!r}, {size}, {classes}{missing}{noise}{done})"

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
        """The number of classes with names, else the largest label plus one.

        Raises ValueError without labels.
        """
        if self.classes is not None:
            return len(self.classes)
        return int(self._required_labels("num_classes").max()) + 1

    @property
    def labelled(self) -> Bool[Tensor, " data"]:
        """True for the items that have a label: ``dataset.subset(dataset.labelled)``."""
        if self.labels is None:
            return torch.zeros(len(self), dtype=torch.bool, device=self.values.device)
        return self.labels >= 0

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

    def as_counts(self) -> Dataset:
        """Take the values as they are where no scale was given: uint8 counts are no grey values."""
        return replace(self, scale=1.0) if self._scale_left_out else self

    def arranged(self, event_shape: Sequence[int]) -> Dataset:
        """Give items another shape that says the same: flat ones theirs, grey images a channel.

        Raises ValueError where the items have another number of entries, or another order of them.
        """
        event_shape = sizes("arranged", "event_shape", event_shape)
        if not same_event(self.event_shape, event_shape):
            raise ValueError(
                f"arranged: items must be of the shape {tuple(event_shape)}, flat, or grey images "
                f"without or with their channel, got {self!r}; "
                f"{how_to_arrange(self.event_shape, event_shape)}"
            )
        shape = (len(self), *event_shape)
        mask = None if self.mask is None else self.mask.reshape(shape)
        how = f"{self.event_shape} taken as {shape[1:]}"
        conversions = (*self.conversions, how)
        return replace(self, values=self.values.reshape(shape), mask=mask, conversions=conversions)

    def check_classes(self, owner: str, training: Dataset) -> None:
        """Raise ValueError where the classes have other names than those of training data."""
        if None not in (self.classes, training.classes) and self.classes != training.classes:
            raise ValueError(
                f"{owner} must have the classes of the training data, {quoted(training.classes)}, "
                f"in their order, got {quoted(self.classes)}; make {self.name!r} with classes= of "
                f"those"
            )

    def subset(self, indices: Tensor | np.ndarray | Sequence[int]) -> Dataset:
        """Keep the items at ``indices`` (integers, or a mask of N booleans), in that order."""
        index = index_of("indices", indices, len(self)).to(self.values.device)
        labels = None if self.labels is None else self.labels[index]
        mask = None if self.mask is None else self.mask[index]
        return replace(self, values=self.values[index], labels=labels, mask=mask)

    def labelled_subset(
        self, per_class: int, seed: int = 0, *, fewer: bool = False
    ) -> Int64[Tensor, " labelled"]:
        """Choose ``per_class`` random items of every class that occurs; return their indices.

        Raises ValueError without labels, or where a class has fewer items; with ``fewer`` all items
        of such a class are chosen.

        Example:
            >>> from ppl_vae.data import load
            >>> chosen = load("digits").labelled_subset(10, seed=0)  # 100 labels, the rest hidden
            >>> len(chosen)
            100
        """
        per_class = positive_int("labelled_subset", "per_class", per_class)
        seed = seed_of("labelled_subset", seed)
        labels = self._required_labels("labelled_subset")
        return per_class_indices(labels, per_class, seed, self.name, fewer)

    def split(self, test_fraction: int | float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Split at random into ``(train, test)``, each class in proportion if there are labels.

        So are the items without a label among those with one.
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
        done = f"drawn once as 0 and 1, seed {seed}"
        return self._made(torch.cat(list(draws)), done)

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
            >>> digits.dequantised(seed=0).dequantised_levels
            17
        """
        generator = self._generator(seed)
        parts = torch.arange(len(self)).split(4096)
        draws = (
            self.draw(i, binarise="none", dequantise=True, generator=generator, flat=False)
            for i in parts
        )
        values = torch.cat(list(draws))
        return self._made(values, f"noise added, seed {seed}", levels=self.levels)

    def quantised(self) -> Dataset:
        """Undo `dequantised`: the integers k = floor(levels v) again, with scale levels - 1.

        Raises ValueError where ``dequantised_levels`` is None.
        """
        levels = self.dequantised_levels
        if levels is None:
            raise ValueError(f"quantised: {self.name!r} must be dequantised, and is not")
        parts = (
            v.double().mul_(levels).floor_().clamp_(max=levels - 1).to(v.dtype)
            for v in self.values.split(4096)  # bounds the memory of float64
        )
        return replace(self._made(torch.cat(list(parts)), "noise removed"), scale=levels - 1.0)

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

    def tensor(
        self,
        *,
        binarise: str = "none",
        dequantise: bool = False,
        generator: torch.Generator | None = None,
        flat: bool = True,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, " data *event"]:
        """Return all items as one tensor, ``(N, D)`` if flat, else ``(N, *event)``; see `draw`.

        Example:
            >>> from ppl_vae.data import load
            >>> load("digits", split="test").tensor().shape
            torch.Size([360, 64])
        """
        return self.draw(
            torch.arange(len(self)),
            binarise=binarise,
            dequantise=dequantise,
            generator=generator,
            flat=flat,
            device=device,
        )

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

    def drawn_for(self, pair: object, batch_size: int = 1000) -> Iterator[Batch | MaskedBatch]:
        """Yield all data in their order as a pair sees them, ``batch_size`` at a time.

        Grey values under a likelihood of 0 and 1 are binarised once, as ``binarised(seed=0)``;
        all others are as they are. They have the shape that the pair declares.

        Args:
            pair: has an ``observation``; flat data as they are for one that has none.
            batch_size: items at a time.
        """
        return Drawing.of(pair, self).once().in_batches(batch_size)

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

    def _made(self, values: Tensor, how: str, *, levels: int | None = None) -> Dataset:
        """Return values that were made of these, which are as they are to stay."""
        return replace(
            self,
            values=values,
            scale=1.0,
            dequantised_levels=levels,
            conversions=(*self.conversions, how),
        )

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
        if self.scale == 1 and not values.is_floating_point():
            check_exact(values, torch.get_default_dtype(), self.name)
        if dequantise:
            check_alone(binarise)
            levels_of(values, self.scale, self.name)

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.values.device).manual_seed(seed_of("", seed))

    def _required_labels(self, owner: str) -> Tensor:
        """Return the labels, or raise ValueError where no item has one."""
        if self.labels is None:
            raise ValueError(f"{owner}: {self.name!r} must have labels, got None; give labels=")
        if not self.labelled.any():
            raise ValueError(
                f"{owner}: {self.name!r} must have labels, got none for all {len(self)} items; "
                f"give the labels that are known"
            )
        return self.labels

    def _classes_in_words(self) -> str:
        missing = len(self) - int(self.labelled.sum())
        if missing == len(self) and self.classes is None:
            return "no labels"
        words = f"{self.num_classes} classes"
        if self.classes is not None:
            words += f" ({reason(', '.join(self.classes))})"
        return words + (f", {missing} without a label" if missing else "")
