"""Two streams of data per step: unlabelled data beside a few labelled ones."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.batches import Batches
from ppl_vae.data.checks import distinct_indices, seeded_generator
from ppl_vae.data.cyclic_sampler import CyclicSampler
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.loader_state import Epochs, Progress, SavedState
from ppl_vae.data.minibatch import Batch, MaskedBatch, Part
from ppl_vae.data.value_transform import ValueTransform
from ppl_vae.errors import describe, flag, number, positive_int, seed_of


@dataclass(frozen=True, eq=False, repr=False)
class SemiSupervised(Epochs):
    r"""Training steps on unlabelled data and, beside them, a few labelled data.

    Iterating yields a tuple of two parts per step: ``Part("unlabelled", (x,), ...)`` and
    ``Part("labelled", (x, y), ...)``, with weights w_p. The objective of the step is

        L = Σ_p w_p (1/B_p) Σ_{i ∈ part p} loss(args_i),    in nats per datum,

    with B_p the number of data of part p: a mean over each stream, so that the weights do not
    depend on the batch sizes. An epoch is one pass through the unlabelled stream, and ``len()`` its
    number of steps. The labelled stream cycles: shuffled passes follow one another without a gap,
    across steps and epochs, so that all labelled items have been seen equally often, up to one. The
    random numbers of the two streams are independent; the unlabelled one is
    ``dataset.batches(batch_size, seed=seed)``. Parts of a data set with missing entries have its
    ``mask`` as a keyword argument.

    A part of weight 0 is left out of the steps, while its stream goes on: epochs keep their length,
    and the other stream is unaffected.

    ``SemiSupervised(few, many)`` takes two data sets, the second as ``unlabelled``.

    Args:
        dataset: with labels, of all items or of some.
        labelled: the items whose labels are used: indices, or a mask of N booleans, such as
            ``dataset.labelled_subset(10, seed=0)``. None is all that have a label.
        batch_size: unlabelled items per step.
        labelled_batch_size: labelled items per step; all of them if there are fewer.
        labelled_weight: weight of the labelled part.
        unlabelled_weight: weight of the unlabelled part.
        unlabelled: the items of the unlabelled stream, indices or a mask; or another dataset, whose
            labels are ignored. None is all of ``dataset``, the labelled items too, with their
            labels hidden.
        binarise: as in `Dataset.draw`, and so are ``dequantise`` and ``flat``.
        seed: of the order, the dynamic draws and the noise of both streams.
        drop_last: leave out a short last batch of the unlabelled stream.
        device: where the parts go; None leaves them where the values are.

    Raises:
        TypeError: indices, sizes or weights of another type.
        ValueError: a dataset without labels; labelled items that have none; indices out of range,
            repeated or empty; negative weights, or all 0; unlabelled items of another shape.

    Source: Kingma et al. 2014 (arXiv 1406.5298), equations 6 and 7, for the two sums.

    Example:
        >>> from ppl_vae.data import SemiSupervised, load
        >>> digits = load("digits")
        >>> steps = SemiSupervised(digits, digits.labelled_subset(10, seed=0), seed=1)
        >>> for part in next(iter(steps)):
        ...     print(part.name, [tuple(a.shape) for a in part.args], part.weight)
        unlabelled [(100, 64)] 1.0
        labelled [(20, 64), (20,)] 1.0
    """

    dataset: Dataset
    labelled: Dataset | Tensor | np.ndarray | Sequence[int] | None = None
    _: KW_ONLY
    batch_size: int = 100
    labelled_batch_size: int = 20
    labelled_weight: int | float = 1.0
    unlabelled_weight: int | float = 1.0
    unlabelled: Dataset | Tensor | np.ndarray | Sequence[int] | None = None
    binarise: str = "dynamic"
    dequantise: bool = False
    flat: bool = True
    seed: int = 0
    drop_last: bool = False
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        owner = "SemiSupervised"
        if not isinstance(self.dataset, Dataset):
            raise TypeError(f"{owner}: dataset must be a Dataset, got {describe(self.dataset)}")
        checked: dict[str, object] = {"seed": seed_of(owner, self.seed)}
        if isinstance(self.labelled, Dataset):
            if self.unlabelled is not None:
                raise TypeError(
                    f"{owner}: labelled must be indices if unlabelled is given, got "
                    f"{self.labelled!r}; give two data sets, SemiSupervised(few, many)"
                )
            checked |= {"unlabelled": self.labelled, "labelled": None}
        if not self.dataset.labelled.any():
            got = f"got {self.dataset!r}; give it labels="
            raise ValueError(f"{owner}: dataset must have labels, {got}")
        for name in ("batch_size", "labelled_batch_size"):
            checked[name] = positive_int(owner, name, getattr(self, name))
        for name in ("labelled_weight", "unlabelled_weight"):
            checked[name] = number(owner, name, getattr(self, name), least=0)
        checked["drop_last"] = flag(owner, "drop_last", self.drop_last)
        vars(self).update(checked)
        if not (self.labelled_weight or self.unlabelled_weight):
            raise ValueError(
                f"{owner}: labelled_weight or unlabelled_weight must be above 0, got 0 for both"
            )
        self.transform.check_training(self.dataset)
        _ = self._batches, self._sampler  # made now, to raise their errors now

    def __len__(self) -> int:
        return len(self._batches)

    def __repr__(self) -> str:
        return (
            f"SemiSupervised({self.dataset.name!r}, {len(self._labelled)} labelled, "
            f"{len(self._batches.dataset)} unlabelled, {len(self)} steps of "
            f"{self._sampler.batch_size} + {self.batch_size})"
        )

    @property
    def labels(self) -> Tensor:
        """The labels that are used."""
        return self.dataset.required_labels("labelled")[self._labelled]

    @cached_property
    def transform(self) -> ValueTransform:
        """How stored values become x."""
        return ValueTransform(self.binarise, self.dequantise, self.flat, self.device)

    def to(self, device: torch.device | str) -> SemiSupervised:
        """Move the values to ``device`` and draw the parts there: new streams, from the start."""
        unlabelled = self.unlabelled
        if isinstance(unlabelled, Dataset):
            unlabelled = unlabelled.to(device)
        return replace(self, dataset=self.dataset.to(device), unlabelled=unlabelled, device=None)

    def __iter__(self) -> Iterator[tuple[Part, ...]]:
        source, transform = self._source
        for unlabelled in self._batches:
            index = self._labelled[self._sampler.draw()]
            labelled: Any = transform.training_batch(source, index, self._sampler.generator)
            x, (labelled_x, y) = unlabelled.x, labelled[:2]
            parts = (
                Part("unlabelled", (x,), self.unlabelled_weight, _mask_of(unlabelled)),
                Part("labelled", (labelled_x, y), self.labelled_weight, _mask_of(labelled)),
            )
            yield tuple(part for part in parts if part.weight)

    def in_parts(self) -> Iterator[Tensor]:
        """Yield one possible draw of the data of both streams; see `Batches.in_parts`."""
        yield from self._batches.in_parts()
        source, transform = self._source
        yield from transform.chunks(source, self._labelled)

    def state_dict(self) -> dict[str, object]:
        """Return the positions and random states of both streams; see `Batches.state_dict`."""
        size = self._sampler.batch_size
        return {
            "unlabelled": self._batches.state_dict(),
            "labelled": self._sampler.state_dict(),
            "settings": {"binarise": self.binarise, **self._choices, "labelled_batch_size": size},
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Resume both streams from ``state``, bit for bit; see `Batches.load_state_dict`.

        The weights may differ.
        """
        saved = SavedState("SemiSupervised", state, self.state_dict())
        labelled = self._sampler.parsed(saved["labelled"])
        self._batches.load_state_dict(saved["unlabelled"])  # type: ignore[arg-type]
        self._sampler.restore(*labelled)  # which cannot fail

    @property
    def _progress(self) -> Progress:
        return self._batches._progress

    @cached_property
    def _labelled(self) -> Tensor:
        known = self.dataset.labelled
        if self.labelled is None:
            return known.nonzero().flatten()
        assert not isinstance(self.labelled, Dataset)
        index = distinct_indices("labelled", self.labelled, len(self.dataset)).to(known.device)
        if missing := int((~known[index]).sum()):
            raise ValueError(
                f"SemiSupervised: labelled must be items that have a label, got {missing} of "
                f"{len(index)} without one; give dataset.labelled, or leave labelled out"
            )
        return index

    @cached_property
    def _unlabelled(self) -> Tensor | None:
        """The indices of the unlabelled stream, if they were given."""
        if self.unlabelled is None or isinstance(self.unlabelled, Dataset):
            return None
        return distinct_indices("unlabelled", self.unlabelled, len(self.dataset))

    @cached_property
    def _choices(self) -> dict[str, str]:
        """Checksums of the items of both streams, which a resumed loader must have in common."""
        chosen = self._unlabelled
        count = f"{len(self._batches.dataset)} items"
        unlabelled = count if chosen is None else _checksum(chosen)
        return {"labelled": _checksum(self._labelled), "unlabelled": unlabelled}

    @cached_property
    def _source(self) -> tuple[Dataset, ValueTransform]:
        # Static binarisation is of the whole data set, before subsets are taken.
        if self.binarise == "static":
            return self.transform.fixed(self.dataset)
        return self.dataset, self.transform

    @cached_property
    def _batches(self) -> Batches:
        source, transform = self._source
        if isinstance(self.unlabelled, Dataset):
            source, transform = self.unlabelled, self.transform
            if source.event_shape != self.dataset.event_shape:
                raise ValueError(
                    f"SemiSupervised: unlabelled must have items of shape "
                    f"{self.dataset.event_shape}, as dataset has, got {source!r}; resize them"
                )
        elif self._unlabelled is not None:
            source = source.subset(self._unlabelled)
        return Batches(
            dataset=source,
            transform=transform,
            batch_size=self.batch_size,
            shuffle=True,
            generator=seeded_generator(self.seed, source.values.device),
            drop_last=self.drop_last,
        )

    @cached_property
    def _sampler(self) -> CyclicSampler:
        # Another seed: with the same one, the streams would share their random numbers.
        seeds = seeded_generator(self.seed, torch.device("cpu"))
        seed = int(torch.randint(2**62, (), generator=seeds))
        generator = seeded_generator(seed, self.dataset.values.device)
        owner = "SemiSupervised, labelled"
        return CyclicSampler(len(self._labelled), self.labelled_batch_size, generator, owner)


def _mask_of(batch: Batch | MaskedBatch) -> dict[str, Tensor]:
    return {"mask": batch.mask} if isinstance(batch, MaskedBatch) else {}


def _checksum(index: Tensor) -> str:
    return f"{len(index)} items, {zlib.crc32(index.cpu().numpy().tobytes()):08x}"
