"""Data sets in memory: items, subsets, conversions and batches."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex, overload

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from ppl_vae.data import sparse, value_transform
from ppl_vae.data.batches import Batches
from ppl_vae.data.checks import as_index, optional_generator, seeded_generator
from ppl_vae.data.columns import Columns
from ppl_vae.data.description import html_table, one_line
from ppl_vae.data.minibatch import (
    Batch,
    ContextBatch,
    Item,
    MaskedBatch,
    MaskedUnlabelled,
    Unlabelled,
)
from ppl_vae.data.splits import held_out, per_class_indices
from ppl_vae.data.value_transform import ValueTransform, prepare
from ppl_vae.errors import describe, device_of, flag, number, positive_int, quoted, seed_of, sizes
from ppl_vae.event_shapes import how_to_arrange, same_event


class Dataset(Columns):
    """Values and labels in memory. Immutable: every method returns a new dataset.

    ``dataset[i]`` is one item, a named tuple of those of ``x``, ``y`` and ``mask`` that there are:
    x is value / scale, of the event's shape, NaN where missing. With a context it is of all of
    ``x``, ``y`` (-1 without labels), ``mask`` and ``c``. A ``torch.utils.data.DataLoader``
    collates such items into batches that training and evaluation take. ``dataset[i:j]`` is a
    dataset. `batches` is many times faster, binarises, and resumes.

    Args:
        values: a tensor or a NumPy array of shape ``(N, *event)``, integer or floating point;
            images ``(N, channels, height, width)`` or, grey, ``(N, height, width)``. A tensor is
            held, not copied: do not write to it while batches are drawn. An array is copied, as are
            booleans (to uint8) and unsigned integers of more than 8 bits (to signed ones). Or a
            sparse matrix ``(N, D)``, of SciPy or of torch's CSR layout, which stays sparse: only
            batches are made dense.
        labels: of shape ``(N,)``: class numbers 0, 1, ..., or strings, numbered in sorted order; a
            tensor, an array or a list. -1, NaN, None, an empty string, or an entry hidden by a
            masked array, is no label. Kept as int64, -1 for no label. None if there are none.
        name: for messages and reports.
        scale: the value that means 1.0: 255 for 8-bit images; 1 for 0/1, counts or real values.
            By default 255 for uint8 values of which any is above 1, else 1; a likelihood of counts
            then takes all values unscaled, see `as_counts`.
        mask: boolean, of the values' shape, True where a value is observed; None if all are. The
            values elsewhere are ignored.
        context: what is given beside x, shape ``(N, features)``, finite: of a
            :class:`ppl_vae.ConditionalVAE` with ``context_features``. Batches have it as c.
        classes: the names of the classes, in the order of their numbers; by default those of string
            labels. Pass those of the training data to other data, so that both number alike.
        conversions: what was done to the values before, for messages and reports.
        dequantised_levels: for values (k + u) / levels, as `dequantised` returns them, the number
            of levels of the integers k; else None. Evaluation then bounds the mass of integers by
            the density of these values.
        augmentation: what `augmented` was given, applied to training batches alone.
        factors: what varies between the items, if known: `Factors`, such as those of `sprites`. For
            :func:`ppl_vae.evaluation.disentanglement`; batches do not have them.

    Raises:
        TypeError: unsupported dtype of values, labels or mask.
        ValueError: no data; observed values that are not finite, or integers above a ``scale``
            other than 1; labels that are not among the classes; a mask that is False everywhere.

    Example:
        >>> Dataset(np.random.rand(4, 2), ["cat", "dog", None, "cat"], "pets")
        Dataset('pets', 4 x (2,), torch.float64 / 1, 2 classes (cat, dog), 1 without a label)
    """

    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    @overload
    def __getitem__(self, index: SupportsIndex) -> Item: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Item | Dataset:
        if isinstance(index, slice):
            if self.is_memory_mapped and index.step in (None, 1):
                return self._with_each(lambda tensor: tensor[index])
            return self.subset(range(len(self))[index])
        try:
            row = range(len(self))[operator.index(index)]
        except TypeError:
            takes = f"{self.name!r}[...] takes an integer or a slice, got {describe(index)}"
            raise TypeError(f"{takes}; choose items with subset(indices)") from None
        except IndexError:
            raise IndexError(f"{self.name!r} has {len(self)} items, got index {index}") from None
        return self.__getitems__([row])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return the items at ``indices``: what a ``DataLoader`` asks for, a batch at once."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        transform = ValueTransform("none", flat=False)
        transform.check(self, index)
        batch = transform.batch(self, index)
        if isinstance(batch, ContextBatch):  # a loader cannot collate None
            y = torch.full_like(index, -1) if batch.y is None else batch.y
            mask = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask
            return list(map(ContextBatch, batch.x, y, mask, batch.c))
        kinds = (Unlabelled, Batch) if self.mask is None else (MaskedUnlabelled, MaskedBatch)
        columns = [c for c in batch if c is not None]
        return [kinds[self.labels is not None](*item) for item in zip(*columns, strict=True)]

    def __repr__(self) -> str:
        return one_line(self)

    def _repr_html_(self) -> str:
        return html_table(self)

    def to(self, device: torch.device | str) -> Dataset:
        """Move everything to ``device``; batches are then drawn and binarised there."""
        device = device_of("to", device)
        if device == self.values.device:
            return self
        return self._with_each(lambda tensor: tensor.to(device))

    def as_counts(self) -> Dataset:
        """Return the data unscaled, unless a scale was given: uint8 counts are not grey values."""
        return replace(self, scale=1.0) if self._scale_is_default else self

    def arranged(self, event_shape: Sequence[int]) -> Dataset:
        """Return flat items in the given shape, or grey images with or without their channel.

        Raises ValueError if the items have another number or order of entries.
        """
        event_shape = sizes("arranged", "event_shape", event_shape)
        if not same_event(self.event_shape, event_shape):
            fix = how_to_arrange(self.event_shape, event_shape)
            raise ValueError(
                f"arranged: items must be of shape {event_shape}, flat, or grey images, got "
                f"{self!r}; {fix}"
            )
        value_transform.check_dense(self, f"arranged as {event_shape}")
        shape = (len(self), *event_shape)
        mask = None if self.mask is None else self.mask.reshape(shape)
        conversions = (*self.conversions, f"{self.event_shape} taken as {shape[1:]}")
        return replace(self, values=self.values.reshape(shape), mask=mask, conversions=conversions)

    def check_classes(self, owner: str, training: Dataset) -> None:
        """Raise ValueError if the classes have other names than those of the training data."""
        if None not in (self.classes, training.classes) and self.classes != training.classes:
            raise ValueError(
                f"{owner} must have the classes of the training data, {quoted(training.classes)}, "
                f"in their order, got {quoted(self.classes)}; make {self.name!r} with these classes"
            )

    def subset(self, indices: Tensor | np.ndarray | Sequence[int]) -> Dataset:
        """Return the items at ``indices`` (integers, or a mask of N booleans), in that order."""
        index = as_index("indices", indices, len(self)).to(self.values.device)
        rows = self._from_start(index)
        return self._with_each(
            lambda t: sparse.sparse_rows(t, rows) if sparse.is_sparse(t) else t[index]
        )

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> Dataset:
        """Return the dataset with each of its columns changed."""
        columns = {name: getattr(self, name) for name in ("values", "labels", "mask", "context")}
        changed: dict[str, Any] = {n: change(t) for n, t in columns.items() if t is not None}
        if self.factors is not None:
            changed["factors"] = self.factors.with_values(change)
        return replace(self, **changed)

    def labelled_subset(
        self, per_class: int, seed: int = 0, *, fewer: bool = False
    ) -> Int64[Tensor, " labelled"]:
        """Choose ``per_class`` random items of every class that occurs; return their indices.

        Raises ValueError without labels, or if a class has fewer items, unless ``fewer``.

        Example:
            >>> from ppl_vae.data import load
            >>> chosen = load("digits").labelled_subset(10, seed=0)  # 100 labels, the rest hidden
            >>> len(chosen)
            100
        """
        per_class = positive_int("labelled_subset", "per_class", per_class)
        seed = seed_of("labelled_subset", seed)
        labels = self.required_labels("labelled_subset")
        return per_class_indices(labels, per_class, seed, self.name, fewer)

    def split(self, test_fraction: int | float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Split at random into ``(train, test)``, stratified by class if there are labels.

        Items without a label count as a class. Depends on the seed, the labels and N alone. Of a
        memory-mapped file the last items are held out, since a choice from all of it would be a
        copy. Raises ValueError if a side would be empty.
        """
        test_fraction = number("split", "test_fraction", test_fraction)
        held = held_out(len(self), test_fraction, self.labels, seed_of("split", seed))
        if held is None:
            if len(self) < 2:
                raise ValueError(f"split: {self.name!r} must have 2 items or more, got {len(self)}")
            raise ValueError(
                f"split: test_fraction must leave items on both sides of {self.name!r} "
                f"({len(self)} items), got {test_fraction}; give a fraction such as 0.5"
            )
        if self.is_memory_mapped:
            first = len(self) - int(held.sum())
            return self[:first], self[first:]
        return self.subset(~held), self.subset(held)

    def binarised(self, seed: int = 0) -> Dataset:
        """Draw every pixel once: a dataset of 0 and 1, the same for the same seed.

        Raises ValueError if ``value / scale`` leaves [0, 1].
        """
        return value_transform.binarised(self, seed)

    def dequantised(self, seed: int = 0) -> Dataset:
        r"""Add uniform noise once: real values v = (k + u) / levels in (0, 1), with scale 1.

        k are the integers of the dataset, and u ~ U[0, 1) at every element; the same seed gives
        the same noise. A density p of v gives the mass P(k) = ∫ p((k + u) / levels) du / levels^D
        of the D integers of an item, and by Jensen's inequality, in nats,

            log P(k) ≥ E_u[log p(v)] - D log levels:

        the bound of a model of v, less D log levels, can be compared with the log-mass of integers
        under `ppl_vae.likelihoods.Categorical` or `DiscretisedLogisticMixture`. Without the noise,
        a density can be made arbitrarily large by concentrating it on the levels.

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
        return value_transform.dequantised(self, seed)

    def quantised(self) -> Dataset:
        """Undo `dequantised`: the integers k = floor(levels v) again, with scale levels - 1.

        Raises ValueError if ``dequantised_levels`` is None.
        """
        return value_transform.quantised(self)

    def augmented(self, transform: Callable[[Tensor], Tensor] | None) -> Dataset:
        """Transform training batches on the fly: x becomes transform(x), then it is binarised.

        Every batch of `batches`, of `SemiSupervised` and of `ppl_vae.training.fit` is transformed
        anew. Items, `draw`, `tensor`, validation and evaluation are not.

        Random numbers that ``transform`` takes from the global generators of torch, NumPy and
        Python follow from the seed of the batches alone: runs repeat and resume exactly. What is
        drawn elsewhere is unaffected.

        Args:
            transform: of x = value / scale, shape ``(B, *event)``, in torch's default dtype; NaN
                where it is missing. Returns a tensor of the same shape, dtype and device, in [0, 1]
                if it is to be binarised or dequantised (from the nearest level). If entries are
                missing, those are missing afterwards where it returns NaN. None for no transform.

        Raises TypeError or ValueError, when a batch is drawn, if it returns anything else.

        Example:
            >>> from ppl_vae.data import load
            >>> def shifted(x):  # by a pixel at most, another way for each batch
            ...     return x.roll(torch.randint(-1, 2, (2,)).tolist(), (-2, -1))
            >>> x, y = next(iter(load("digits").augmented(shifted).batches(100)))
            >>> x.shape
            torch.Size([100, 64])
        """
        return replace(self, augmentation=transform)

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
        """Return x at ``index``, ``(B, D)`` if flat, else ``(B, *event)``, NaN where missing.

        In torch's default dtype; which pixels are drawn as 1 does not depend on it. The result owns
        its memory.

        Args:
            index: integers, shape ``(B,)``.
            binarise: what to do with the grey value p = value / scale. ``"dynamic"``: a draw from
                Bernoulli(p), anew at every call. ``"static"``: drawn once, as by
                ``binarised(seed=0)``; take subsets after it. ``"threshold"``: p > 0.5.
                ``"none"``: p itself.
            dequantise: with ``binarise="none"``, add noise to integers, anew at every call, for a
                likelihood that is a density; see `dequantised`.
            generator: for the dynamic draw and the noise, on the values' device; by default torch's
                global one.
            flat: flatten the event.
            device: where the result goes; None leaves it where the values are.

        Raises ValueError if values to be binarised are outside [0, 1], or values to be dequantised
        are not integers, are to be binarised too, or of a default dtype shorter than float32.

        Example:
            >>> from ppl_vae.data import load
            >>> load("digits").draw(torch.arange(3), binarise="threshold", flat=False).shape
            torch.Size([3, 1, 8, 8])
        """
        index = as_index("index", index, len(self))
        generator = optional_generator("draw", generator)
        transform = ValueTransform(binarise, dequantise, flat, device)
        transform.check(self, None if binarise == "static" else index)
        data = self
        if binarise == "static":
            data, transform = transform.fixed(self)
        return transform.values(data, index, generator)

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

    def in_parts(self) -> Iterator[Float[Tensor, " batch *event"]]:
        """Yield value / scale of all items, a few thousand at a time, NaN where missing."""
        return ValueTransform("none", flat=False).chunks(self)

    def drawn_for(self, pair: object, batch_size: int = 1000) -> Iterator[Any]:
        """Yield all items in order as a pair sees them, ``batch_size`` at a time.

        Grey values under a likelihood of 0 and 1 are binarised once, as ``binarised(seed=0)``;
        others are only scaled. They have the shape that the pair declares; without an
        ``observation`` they are flat.
        """
        data, transform = prepare(pair, self)
        if data.is_memory_mapped:  # not binarised as a whole
            yield from transform.in_order(data, batch_size)
            return
        data, transform = transform.fixed(data)
        for index in torch.arange(len(data)).split(batch_size):
            yield transform.batch(data, index)

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

        With a mask, ``for x, labels, mask in ...``: x is NaN where it is missing. With a context,
        ``for x, labels, mask, c in ...``; the mask is None if there is none.

        Every iteration is a new epoch with a new order, draws and noise, all of which follow from
        one seed; torch's global generator is not used. `Batches.state_dict` resumes anywhere in an
        epoch.

        Args:
            batch_size: items per batch; the last batch may be shorter.
            binarise: as in `draw`, and so are ``dequantise`` and ``flat``; after the transform of
                `augmented` data.
            shuffle: a new order in each epoch, else the order of the data.
            seed: of the order, the dynamic draws and the noise.
            generator: used in place of ``seed`` if given; on the device of the values.
            drop_last: leave out a short last batch.
            device: as in `draw`, for the labels too.
        """
        given = optional_generator("batches", generator)
        return Batches(
            dataset=self,
            transform=ValueTransform(binarise, dequantise, flat, device),
            batch_size=batch_size,
            shuffle=flag("batches", "shuffle", shuffle),
            generator=seeded_generator(seed, self.values.device) if given is None else given,
            drop_last=flag("batches", "drop_last", drop_last),
        )
