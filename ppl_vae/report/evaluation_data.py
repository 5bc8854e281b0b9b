"""The data that pairs are evaluated on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppl_vae.data import Dataset, Factors
from ppl_vae.data.value_transform import prepare
from ppl_vae.errors import describe
from ppl_vae.evaluation.labels import check_labels
from ppl_vae.event_shapes import same_event
from ppl_vae.protocols import ModelAndGuide


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """All data of a source, or a random subset.

    Args:
        index: the indices of the subset, ascending.
        labels: of those at ``index``, on the CPU.
        image_shape: of one datum, ``(H, W)`` or ``(C, H, W)``; None if it is not an image.
        seed: of the subset and of the binarisation.
        observed: of a tensor: which elements are observed, of its shape.
        classes: names of the labels.
        owner: named in errors.
    """

    source: Dataset | Tensor
    index: Tensor
    labels: Tensor | None
    image_shape: tuple[int, ...] | None
    seed: int
    observed: Tensor | None = None
    classes: tuple[str, ...] | None = None
    owner: str = "report"

    @classmethod
    def of(
        cls,
        source: Dataset | Tensor,
        labels: Tensor | None = None,
        image_shape: Sequence[int] | None = None,
        *,
        num_data: int | None = None,
        seed: int = 0,
        mask: Tensor | None = None,
        owner: str = "report",
    ) -> EvaluationData:
        """Check the data and choose the subset."""
        total = len(source)
        if total < 2:
            raise ValueError(f"{owner}: data must hold 2 data or more, got {total}")
        event = tuple(source.shape[1:]) if isinstance(source, Tensor) else source.event_shape
        classes = None
        if labels is None and isinstance(source, Dataset):
            labels, classes = source.labels, source.classes
        if labels is not None:
            check_labels(owner, labels, total, lowest=-1)
        if mask is not None:
            shape = source.shape if isinstance(source, Tensor) else None
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != shape:
                raise ValueError(
                    f"{owner}: mask must be boolean and of the shape of data, a tensor, got "
                    f"{describe(mask)}; give a Dataset its mask: Dataset(x, mask=mask)"
                )
        index = torch.arange(total)
        if num_data is not None and num_data < total:
            generator = torch.Generator().manual_seed(seed)
            index = torch.randperm(total, generator=generator)[:num_data].sort().values
        if image_shape is None and (len(event) == 2 or (len(event) == 3 and event[0] in (1, 3))):
            image_shape = event
        image_shape = None if image_shape is None else tuple(image_shape)
        if image_shape is not None and not same_event(event, image_shape):
            raise ValueError(
                f"{owner}: image_shape must be {event}, or of {math.prod(event)} elements if data "
                f"are flat, got {image_shape}"
            )
        labels = None if labels is None else labels.cpu()[index]
        return cls(source, index, labels, image_shape, seed, mask, classes, owner)

    def training_data(self, train: Dataset, num_data: int | None) -> EvaluationData:
        """Return training data to fit probes on, for these data."""
        if not isinstance(train, Dataset) or not train.labelled.any():
            raise (ValueError if isinstance(train, Dataset) else TypeError)(
                f"{self.owner}: train must be a Dataset with labels, got {describe(train)}"
            )
        if not same_event(train.event_shape, self.event_shape):
            raise ValueError(
                f"{self.owner}: train must have the shape {self.event_shape}, got "
                f"{train.event_shape}"
            )
        if isinstance(self.source, Dataset):
            self.source.check_classes(f"{self.owner}: data", train)
        return EvaluationData.of(train, num_data=num_data, seed=self.seed, owner=self.owner)

    def __len__(self) -> int:
        return len(self.index)

    def __str__(self) -> str:
        if len(self) == len(self.source):
            return f"{len(self)} data"
        return f"{len(self)} of {len(self.source)} data, chosen at random with seed {self.seed}"

    @property
    def name(self) -> str:
        """Name of the source."""
        return "data" if isinstance(self.source, Tensor) else self.source.name

    @property
    def num_labelled(self) -> int:
        """Number of data with a label."""
        return 0 if self.labels is None else int((self.labels >= 0).sum())

    def class_name(self, label: int) -> str:
        """Return the name of a label, or its number."""
        if self.classes is not None and label < len(self.classes):
            return self.classes[label]
        return str(label)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        if isinstance(self.source, Tensor):
            return tuple(self.source.shape[1:])
        return self.source.event_shape

    @property
    def dequantised_levels(self) -> int | None:
        """Number of levels before dequantisation; None if the data are not dequantised."""
        return self.source.dequantised_levels if isinstance(self.source, Dataset) else None

    @property
    def context(self) -> Tensor | None:
        """The contexts that the data set has beside x; None if there are none."""
        if not isinstance(self.source, Dataset):
            return None
        return self.source.context_at(self.index, dtype=torch.float64)

    @property
    def factors(self) -> Factors | None:
        """The known factors of the data; None if there are none."""
        if not isinstance(self.source, Dataset) or self.source.factors is None:
            return None
        return self.source.factors.with_values(lambda values: values[self.index.to(values.device)])

    @property
    def levels(self) -> int | None:
        """Number of levels of discrete values; None for real or dequantised values."""
        if not isinstance(self.source, Dataset) or self.dequantised_levels is not None:
            return None
        try:
            return self.source.levels
        except ValueError:  # real values
            return None

    def quantised(self) -> EvaluationData:
        """Return the same data before dequantisation, if they are dequantised."""
        if not isinstance(self.source, Dataset) or self.dequantised_levels is None:
            return self
        return replace(self, source=self.source.quantised())

    def values(self, pair: ModelAndGuide) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return x as the pair takes it, x before binarisation and the mask.

        The first two are one tensor if nothing is binarised; both are NaN where missing.
        """
        if isinstance(self.source, Tensor):
            x = self.source[self.index.to(self.source.device)]
            if self.observed is None:
                return x, x, None
            observed = self.observed[self.index.to(self.observed.device)]
            x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
            x = x.masked_fill(~observed.to(x.device), torch.nan)
            return x, x, observed
        data, transform = prepare(pair, self.source)
        grey = replace(transform, binarise="none").values(data, self.index)
        mask = data.mask_at(self.index, flat=transform.flat)
        if transform.binarise == "none":
            return grey, grey, mask
        binarised, transform = transform.fixed(data, self.seed)
        return transform.values(binarised, self.index), grey, mask
