"""A pair and the data it is evaluated on, as it sees them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.data.value_transform import Drawing
from ppl_vae.errors import describe
from ppl_vae.evaluation.inputs import parameter_of
from ppl_vae.evaluation.labels import check_labels
from ppl_vae.event_shapes import same_event
from ppl_vae.models import VAE, ConditionalVAE, HierarchicalVAE, SemiSupervisedVAE
from ppl_vae.protocols import ModelAndGuide


@dataclass(frozen=True, eq=False)
class Data:
    """The data that are evaluated: all of them, or a random choice.

    Args:
        source: what was given.
        index: which of them, ascending.
        labels: of those at ``index``.
        image_shape: of one datum, ``(H, W)`` or ``(C, H, W)``; None where it is no image.
        seed: of the binarisation.
        seen: what is observed of a tensor, of its shape; a data set says so itself.
        classes: the names of the labels.
    """

    source: Dataset | Tensor
    index: Tensor
    labels: Tensor | None
    image_shape: tuple[int, ...] | None
    seed: int
    seen: Tensor | None = None
    classes: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        source: Dataset | Tensor,
        labels: Tensor | None,
        image_shape: Sequence[int] | None,
        num_data: int | None,
        seed: int,
        mask: Tensor | None = None,
    ) -> Data:
        """Choose the data, and look at what they are."""
        total = len(source)
        if total < 2:
            raise ValueError(
                f"report: data must hold 2 data or more, got {total}; nothing can be said of fewer"
            )
        event = tuple(source.shape[1:]) if isinstance(source, Tensor) else source.event_shape
        classes = None
        if labels is None and isinstance(source, Dataset):
            labels, classes = source.labels, source.classes
        if labels is not None:
            check_labels("report", labels, total, lowest=-1)
        if mask is not None:
            of = source.shape if isinstance(source, Tensor) else None
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != of:
                raise ValueError(
                    f"report: mask must be boolean and of the shape of data, a tensor, got "
                    f"{describe(mask)}; a Dataset brings its own, Dataset(x, mask=mask)"
                )
        index = torch.arange(total)
        if num_data is not None and num_data < total:
            generator = torch.Generator().manual_seed(seed)
            index = torch.randperm(total, generator=generator)[:num_data].sort().values
        if image_shape is None and (len(event) == 2 or (len(event) == 3 and event[0] in (1, 3))):
            image_shape = event
        if labels is not None:
            labels = labels.cpu()[index]
        shape = None if image_shape is None else tuple(image_shape)
        if shape is not None and not same_event(event, shape):
            raise ValueError(
                f"report: image_shape {shape} does not suit data of shape {event}; it must have "
                f"the shape of a datum, or {math.prod(event)} elements where it is flat"
            )
        return cls(source, index, labels, shape, seed, mask, classes)

    @classmethod
    def to_fit(cls, train: Dataset, data: Data, num_data: int | None) -> Data:
        """Choose training data, for data that are evaluated.

        Raises:
            TypeError: if they are no data set.
            ValueError: if they have no labels, or are of another shape.
        """
        if not isinstance(train, Dataset) or not train.labelled.any():
            raise (ValueError if isinstance(train, Dataset) else TypeError)(
                f"report: train must be a ppl_vae.data.Dataset with labels, got {describe(train)}"
            )
        if not same_event(train.event_shape, data.event_shape):
            raise ValueError(
                f"report: train must be of the shape {data.event_shape} of data, got "
                f"{train.event_shape}"
            )
        if isinstance(data.source, Dataset):
            data.source.check_classes("report: data", train)
        return cls.of(train, None, None, num_data, data.seed)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def name(self) -> str:
        """What the data are called."""
        return "data" if isinstance(self.source, Tensor) else self.source.name

    @property
    def extent(self) -> str:
        """How many they are, and how they were chosen, in words."""
        if len(self) == len(self.source):
            return f"{len(self)} data"
        return f"{len(self)} of {len(self.source)} data, chosen at random with seed {self.seed}"

    @property
    def num_labelled(self) -> int:
        """How many have a label."""
        return 0 if self.labels is None else int((self.labels >= 0).sum())

    def called(self, label: int) -> str:
        """Return the name of a label, or its number."""
        known = self.classes is not None and label < len(self.classes)
        return self.classes[label] if known and self.classes is not None else str(label)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        if isinstance(self.source, Tensor):
            return tuple(self.source.shape[1:])
        return self.source.event_shape

    @property
    def dequantised_levels(self) -> int | None:
        """How many levels the values had before noise was added; None where none was."""
        return self.source.dequantised_levels if isinstance(self.source, Dataset) else None

    @property
    def levels(self) -> int | None:
        """How many levels the values have, with no noise between them; None if they have none."""
        if not isinstance(self.source, Dataset) or self.dequantised_levels is not None:
            return None
        try:
            return self.source.levels
        except ValueError:  # real values
            return None

    def without_noise(self) -> Data:
        """Return the same data as they were before they were dequantised, if they were."""
        if not isinstance(self.source, Dataset) or self.dequantised_levels is None:
            return self
        return replace(self, source=self.source.quantised())

    def drawn(self, pair: ModelAndGuide) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the values as a pair sees them, as they are, and what is observed of them.

        The first two are one tensor where a pair sees them as they are.
        """
        if isinstance(self.source, Tensor):
            x = self.source[self.index.to(self.source.device)]
            return x, x, None if self.seen is None else self.seen[self.index.to(self.seen.device)]
        drawing = Drawing.of(pair, self.source)
        grey = drawing.data.draw(self.index, binarise="none", flat=drawing.flat)
        mask = drawing.data.mask_at(self.index, flat=drawing.flat)
        binary = drawing.binarise != "none"
        return drawing.once(self.seed).at(self.index).x if binary else grey, grey, mask


@dataclass(frozen=True, eq=False)
class Subject:
    """A pair, what it is called, and its arguments.

    Args:
        name: of the pair.
        pair: the pair.
        x: the data as the likelihood has them, shape ``(N, *event)``.
        context: further arguments of the programs.
        grey: the data before they were binarised, of x's shape.
        data: where they come from.
        prepared: in words, what was done to them.
        mask: what is observed, of x's shape; None if all of it is.
    """

    name: str
    pair: ModelAndGuide
    x: Tensor
    context: tuple[Tensor, ...]
    grey: Tensor
    data: Data
    prepared: str
    mask: Tensor | None = None

    @property
    def kwargs(self) -> dict[str, Tensor]:
        """What the programs are given by name."""
        return {} if self.mask is None else {"mask": self.mask}

    @property
    def labels(self) -> Tensor | None:
        """A label for each datum, on the CPU."""
        return self.data.labels

    @property
    def dimensions(self) -> int | None:
        """How many entries of a datum are observed; None where data differ in that."""
        if self.mask is None:
            return math.prod(self.x.shape[1:])
        observed = self.mask.flatten(1).sum(1).unique()
        return int(observed) if len(observed) == 1 else None

    @property
    def classes(self) -> int | None:
        """How many values a label of the programs has; None where they have none."""
        pair = self.pair
        if isinstance(pair, (ConditionalVAE, SemiSupervisedVAE)):
            return pair.num_classes
        return None


def subjects(
    pairs: Mapping[str, ModelAndGuide], data: Data, context: Sequence[Tensor]
) -> list[Subject]:
    """Return the pairs with their arguments.

    Raises:
        ValueError: if a pair is conditional on labels and there are none, or the data do not suit.
    """
    return [_subject(name, pair, data, tuple(context)) for name, pair in pairs.items()]


def training(subject: Subject, train: Data) -> Subject:
    """Return the same pair with training data.

    Raises:
        ValueError: if the data do not suit, or there is a context that they do not have.
    """
    pair = subject.pair
    labels_alone = isinstance(pair, ConditionalVAE) and pair.num_classes is not None
    if subject.context and not labels_alone:
        raise ValueError(
            f"report: pair {subject.name!r} is given a context, and there is none for the training "
            f"data; leave train out"
        )
    return _subject(subject.name, pair, train, ())


def _subject(name: str, pair: ModelAndGuide, data: Data, context: tuple[Tensor, ...]) -> Subject:
    like = parameter_of(pair)
    observation = getattr(pair, "observation", None)
    prepared = "as they are"
    if data.dequantised_levels is not None:
        prepared = f"dequantised from {data.dequantised_levels} levels"
        if observation is not None and observation.is_discrete:
            prepared = f"{data.dequantised_levels} levels, without the noise between them"
            data = data.without_noise()
    x, grey, mask = data.drawn(pair)
    if observation is not None and observation.is_boolean:
        prepared = "0 and 1 as given"
    if x is not grey:
        prepared = f"binarised once, each pixel a Bernoulli draw, with seed {data.seed}"
    if observation is not None:
        x, grey = (observation.arranged(t) for t in (x, grey))
        mask = None if mask is None else mask.reshape(x.shape)
    x, grey = (t.to(device=like.device, dtype=like.dtype) for t in (x, grey))
    if mask is not None:
        mask = mask.to(like.device)
        prepared += f"; {100 * (1 - mask.double().mean().item()):.3g} % are missing"
    if observation is not None:
        observation.check_shape(x)
        observation.check_values(observation.filled(x, mask))
    elif mask is not None:
        x = torch.where(mask, x, 0.0)  # as in training; this package's pairs fill it themselves
    return Subject(
        name, pair, x, _context(name, pair, data, context, like), grey, data, prepared, mask
    )


def _context(
    name: str, pair: ModelAndGuide, data: Data, given: tuple[Tensor, ...], like: Tensor
) -> tuple[Tensor, ...]:
    if isinstance(pair, (VAE, SemiSupervisedVAE, HierarchicalVAE)):
        return ()
    if isinstance(pair, ConditionalVAE) and not given:
        if pair.num_classes is None or not data.num_labelled:
            what = "labels=" if pair.num_classes is not None else "context=[c]"
            raise ValueError(
                f"report: pair {name!r} is conditional, and there is nothing given to condition "
                f"on; give {what}"
            )
        assert data.labels is not None
        if missing := len(data) - data.num_labelled:
            raise ValueError(
                f"report: pair {name!r} is conditional on labels, and {missing} of {len(data)} "
                f"data have none; leave these out: data.subset(data.labelled)"
            )
        return (data.labels.to(like.device),)
    for c in given:
        if len(c) != len(data.source):
            raise ValueError(
                f"report: each tensor of context must have {len(data.source)} entries, one for "
                f"each datum, got {describe(c)}"
            )
    chosen = (c[data.index.to(c.device)].to(like.device) for c in given)
    return tuple(c.to(like.dtype) if c.is_floating_point() else c for c in chosen)
