"""Several streams of data in one step: images without labels beside a few with."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.batches import Batches
from ppl_vae.data.checks import checked_indices
from ppl_vae.data.cyclic_sampler import Cycle
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.loader_state import check_state
from ppl_vae.data.minibatch import Part
from ppl_vae.errors import describe, device_of, flag, number, positive_int, seed_of


@dataclass(frozen=True, eq=False, repr=False)
class SemiSupervised:
    r"""Steps that see images without their labels and a few images with them.

    Iterating yields, for every step, a tuple of two parts: ``Part("unlabelled", (x,), ...)`` and
    ``Part("labelled", (x, y), ...)``, with weights w_p. The objective of the step is

        L = Σ_p w_p (1/B_p) Σ_{i ∈ part p} loss(args_i),    in nats per datum,

    B_p being the number of data of part p: a mean over each stream, so that the weights do not
    depend on the sizes of the batches. An epoch is one pass through the unlabelled stream, and
    ``len()`` its number of steps. The labelled stream goes round by itself: shuffled passes follow
    one another without a gap, through the ends of steps and epochs, and at any time every labelled
    item has been seen equally often, up to one. The two streams have random numbers of their own:
    neither depends on how the other is drawn. The unlabelled one is that of
    ``dataset.batches(batch_size, seed=seed)``. Parts of a data set with missing entries have its
    mask, by the name ``mask``.

    Where a weight is 0, the stream goes on as ever, but its part is left out of the steps: epochs
    keep their length, and the other stream stays as it is.

    ``SemiSupervised(few, many)`` takes two data sets, the second as ``unlabelled``.

    Args:
        dataset: with labels, of all items or of some.
        labelled: the items whose label is seen: indices, or a mask of N booleans, such as
            ``dataset.labelled_subset(10, seed=0)``. None is all that have a label.
        batch_size: unlabelled items per step.
        labelled_batch_size: labelled items per step; all of them, at every step, where there are
            fewer.
        labelled_weight: weight of the labelled part.
        unlabelled_weight: weight of the unlabelled part.
        unlabelled: the items of the unlabelled stream, indices or a mask; or another dataset, whose
            labels, if any, are not seen. None is all of ``dataset``, the labelled items too, with
            their labels hidden.
        binarise: as in `Dataset.draw`.
        dequantise: as in `Dataset.draw`.
        flat: as in `Dataset.draw`.
        seed: of the order, the dynamic draws and the noise of both streams.
        drop_last: leave a short last batch of the unlabelled stream out.
        device: where the parts go; None leaves them where the values are.

    Raises:
        TypeError: indices, sizes or weights of another type.
        ValueError: a dataset without labels; labelled items that have none; indices that are
            outside, double or none; weights that are negative, not finite, or all 0; unlabelled
            items of another shape; sizes and modes as in `Dataset.batches`.

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
        if not isinstance(self.dataset, Dataset):
            raise TypeError(
                f"SemiSupervised: dataset must be a Dataset, got {describe(self.dataset)}"
            )
        if isinstance(self.labelled, Dataset):
            if self.unlabelled is not None:
                raise TypeError(
                    f"SemiSupervised: labelled must be items of dataset where unlabelled is given, "
                    f"got {self.labelled!r}; give two data sets, SemiSupervised(few, many)"
                )
            object.__setattr__(self, "unlabelled", self.labelled)
            object.__setattr__(self, "labelled", None)
        if not self.dataset.labelled.any():
            raise ValueError(
                f"SemiSupervised: dataset must have labels, got {self.dataset!r}; give it labels=, "
                f"or train on dataset.batches(...), which needs none"
            )
        owner = "SemiSupervised"
        checked: dict[str, object] = {"seed": seed_of(owner, self.seed)}
        for name in ("batch_size", "labelled_batch_size"):
            checked[name] = positive_int(owner, name, getattr(self, name))
        for name in ("labelled_weight", "unlabelled_weight"):
            checked[name] = number(owner, name, getattr(self, name), least=0)
        for name in ("dequantise", "flat", "drop_last"):
            checked[name] = flag(owner, name, getattr(self, name))
        device_of(owner, self.device)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if not (self.labelled_weight or self.unlabelled_weight):
            raise ValueError(
                "SemiSupervised: labelled_weight or unlabelled_weight must be above 0, got 0 for "
                "both, which leaves nothing to train on"
            )
        self.dataset._check_modes(self.binarise, self.dequantise, self.dataset._observed)
        _ = self._batches, self._cycle  # made now, so that their errors come now

    def __len__(self) -> int:
        return len(self._batches)

    def __repr__(self) -> str:
        return (
            f"SemiSupervised({self.dataset.name!r}, {len(self._labelled)} labelled, "
            f"{len(self._batches.dataset)} unlabelled, {len(self)} steps of "
            f"{min(self.labelled_batch_size, len(self._labelled))} + {self.batch_size})"
        )

    @property
    def epoch(self) -> int:
        """The number of the epoch under way, from 0; of the next one where none is."""
        return self._batches.epoch

    @property
    def position(self) -> int:
        """How many steps of the epoch were handed out."""
        return self._batches.position

    def to(self, device: torch.device | str) -> SemiSupervised:
        """Hold the values on ``device`` and draw the parts there: new streams, at their start."""
        unlabelled = self.unlabelled
        if isinstance(unlabelled, Dataset):
            unlabelled = unlabelled.to(device)
        return replace(self, dataset=self.dataset.to(device), unlabelled=unlabelled, device=None)

    def __iter__(self) -> Iterator[tuple[Part, ...]]:
        for batch in self._batches:
            index = self._labelled[self._cycle.draw()]
            mask = getattr(batch, "mask", None)
            parts = (
                Part("unlabelled", (batch.x,), self.unlabelled_weight, _named(mask)),
                Part(
                    "labelled",
                    self._drawn(index),
                    self.labelled_weight,
                    _named(self._source.mask_at(index, flat=self.flat, device=self.device)),
                ),
            )
            yield tuple(part for part in parts if part.weight)

    def in_parts(self) -> Iterator[Tensor]:
        """Yield all data of both streams as they are drawn; see `Batches.in_parts`."""
        yield from self._batches.in_parts()
        self._source._check_modes(self._mode, self.dequantise, self._source._observed)
        mode = "threshold" if self._mode == "dynamic" else self._mode
        generator = torch.Generator(self.dataset.values.device).manual_seed(0)
        for index in self._labelled.split(4096):
            yield self._draw(index, mode, generator)

    @property
    def labels(self) -> Tensor:
        """The labels that are seen."""
        return self.dataset._required_labels("labelled")[self._labelled]

    def state_dict(self) -> dict[str, object]:
        """Return the place of both streams, and their random states; see `Batches.state_dict`."""
        return {
            "unlabelled": self._batches.state_dict(),
            "labelled": self._cycle.state_dict(),
            "settings": {
                "binarise": self.binarise,
                "labelled": self._choices["labelled"],
                "unlabelled": self._choices["unlabelled"],
                "labelled_batch_size": self._cycle.batch_size,
            },
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from ``state``, bit for bit, with both streams; see `Batches.load_state_dict`.

        The weights may be others than they were.
        """
        check_state("SemiSupervised", state, self.state_dict())
        labelled = self._cycle.checked(state["labelled"])
        self._batches.load_state_dict(state["unlabelled"])  # type: ignore[arg-type]
        self._cycle.restore(*labelled)  # what could fail has not

    @cached_property
    def _labelled(self) -> Tensor:
        known = self.dataset.labelled
        if self.labelled is None:
            return known.nonzero().flatten()
        assert not isinstance(self.labelled, Dataset)
        index = checked_indices("labelled", self.labelled, len(self.dataset)).to(known.device)
        missing = int((~known[index]).sum())
        if missing:
            raise ValueError(
                f"SemiSupervised: labelled must be items that have a label, got {missing} of "
                f"{len(index)} without one; give dataset.labelled, or leave labelled out"
            )
        return index

    @cached_property
    def _choices(self) -> dict[str, str]:
        """Which items the streams have, in a few letters: other ones must not be gone on with."""
        chosen = {"labelled": self._labelled}
        if self.unlabelled is not None and not isinstance(self.unlabelled, Dataset):
            count = len(self.dataset)
            chosen["unlabelled"] = checked_indices("unlabelled", self.unlabelled, count)
        named = {
            name: f"{len(index)} items, {zlib.crc32(index.cpu().numpy().tobytes()):08x}"
            for name, index in chosen.items()
        }
        return {"unlabelled": f"{len(self._batches.dataset)} items"} | named

    @cached_property
    def _mode(self) -> str:
        # A static draw is one of the whole dataset: made first, so that subsets agree with it.
        return "none" if self.binarise == "static" else self.binarise

    @cached_property
    def _source(self) -> Dataset:
        return self.dataset.binarised(seed=0) if self.binarise == "static" else self.dataset

    @cached_property
    def _batches(self) -> Batches:
        mode, source = self._mode, self._source
        if isinstance(self.unlabelled, Dataset):
            mode, source = self.binarise, self.unlabelled
            if source.event_shape != self.dataset.event_shape:
                raise ValueError(
                    f"SemiSupervised: unlabelled must have items of shape "
                    f"{self.dataset.event_shape}, as dataset has, got {source!r}; resize them"
                )
        elif self.unlabelled is not None:
            source = source.subset(
                checked_indices("unlabelled", self.unlabelled, len(self.dataset))
            )
        return source.batches(
            self.batch_size,
            binarise=mode,
            dequantise=self.dequantise,
            seed=self.seed,
            drop_last=self.drop_last,
            flat=self.flat,
            device=self.device,
        )

    @cached_property
    def _cycle(self) -> Cycle:
        # Another seed: with the same one, the streams would share their random numbers.
        seeds = torch.Generator().manual_seed(self.seed)
        seed = int(torch.randint(2**62, (), generator=seeds))
        generator = torch.Generator(self.dataset.values.device).manual_seed(seed)
        return Cycle(len(self._labelled), self.labelled_batch_size, generator)

    def _drawn(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y of the items at these places of ``dataset``."""
        x = self._draw(index, self._mode, self._cycle.generator)
        y = self.dataset._labels_at(index, self.device)
        assert y is not None  # looked at when the streams were made: a look waits for the device
        return x, y

    def _draw(self, index: Tensor, mode: str, generator: torch.Generator) -> Tensor:
        return self._source._drawn(index, mode, self.dequantise, generator, self.flat, self.device)


def _named(mask: Tensor | None) -> dict[str, Tensor]:
    return {} if mask is None else {"mask": mask}
