"""Loaders that are not ours, such as PyTorch's DataLoader, made to resume exactly."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.loader_state import Epochs, check_state, place
from ppl_vae.data.minibatch import Given, given, tensors_of
from ppl_vae.errors import describe, seed_of
from ppl_vae.process_state import exclusively

_ELEMENTS = 64  # of each tensor, by which two batches are compared
_END = object()


class Replayed:
    """The epochs of any loader, the same for one seed in every process, and resumed exactly.

    Every epoch begins from random states that follow from ``seed`` and its number alone: those of
    torch on the CPU, of numpy and of Python's ``random``. They are in place only while a batch is
    fetched, so that the data do not depend on what a model draws, nor the model on the data. The
    generators of a DataLoader and of its sampler are seeded in the same way, whatever they were,
    and a sampler with ``set_epoch`` is told the number of the epoch. Workers take their seeds from
    there, with any ``num_workers``.

    A foreign loader cannot be set to a place: resuming iterates over the epoch again, from its
    start up to the place, which takes as long as fetching these batches did. Random numbers from
    elsewhere (a generator inside the dataset, a device, the clock) cannot be brought back; the
    last batch that was handed out is compared with what it was, and an error tells of it.

    Args:
        batches: anything that can be iterated over again and again, each time for one epoch, and
            yields a tensor, a tuple or list of tensors, a mapping of names to tensors (or a named
            tuple), or `Part`s. Every batch comes as a tuple, or as a dict where it has names.
        seed: of all epochs.

    Raises:
        TypeError: an iterator, which has one epoch only; no iterable; batches of other things
            (when they are fetched).
        ValueError: a DataLoader with ``persistent_workers=True``, whose workers' random numbers
            depend on the epochs before, or with ``in_order=False``.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> loader = DataLoader(TensorDataset(torch.arange(10)), batch_size=4, shuffle=True)
        >>> batches = Replayed(loader, seed=1)
        >>> first = [x for x, in batches]
        >>> again = [x for x, in Replayed(loader, seed=1)]
        >>> all(torch.equal(a, b) for a, b in zip(first, again))
        True
    """

    def __init__(self, batches: Iterable[Any], *, seed: int = 0) -> None:
        # Nothing is iterated over here: that would start workers and draw random numbers.
        if isinstance(batches, Iterator) or not isinstance(batches, Iterable):
            raise TypeError(
                f"Replayed: batches must be something to iterate over once per epoch, got "
                f"{describe(batches)}; give a DataLoader, a list or an object whose __iter__ "
                f"starts anew, and no iterator or generator, which ends after one epoch"
            )
        seed = seed_of("Replayed", seed)
        if getattr(batches, "persistent_workers", False):
            raise ValueError(
                "Replayed: batches must be a DataLoader with persistent_workers=False, got True; "
                "the random numbers of workers that live on cannot be brought back"
            )
        if not getattr(batches, "in_order", True):
            raise ValueError(
                "Replayed: batches must be a DataLoader with in_order=True, got False; the order "
                "would depend on which worker is the quickest"
            )
        self.batches = batches
        self.seed = seed
        self._epochs = Epochs()
        self._last: list[Tensor] = []  # a few elements of the last batch that was handed out

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"Replayed({type(self.batches).__name__}, seed={self.seed})"

    @property
    def epoch(self) -> int:
        """The number of the epoch under way, from 0; of the next one where none is."""
        return self._epochs.epoch

    @property
    def position(self) -> int:
        """How many batches of the epoch were handed out."""
        return self._epochs.position

    def __iter__(self) -> Iterator[Given]:
        iteration = self._epochs.begin()
        rest = self._fetched(self.epoch)
        if self.position:
            self._pass_over(rest)
        while True:
            self._epochs.check("Replayed", iteration)
            if (batch := next(rest, None)) is None:
                break
            self._last = _sample(batch)
            self._epochs.advance(iteration)
            yield batch
        self._epochs.end(iteration)

    def state_dict(self) -> dict[str, object]:
        """Return the place, and a few elements of the last batch; see `Batches.state_dict`."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "last": [sample.cpu() for sample in self._last] if self.position else [],
            "settings": {"seed": self.seed, "batches": self._length()},
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from ``state``: the next iteration replays the epoch and yields its rest.

        That iteration raises RuntimeError where the replayed batches are others than they were.

        Raises:
            TypeError: not a dict.
            ValueError: a state of another seed or another number of batches per epoch; no state of
                a loader like this. Nothing has changed.
        """
        check_state("Replayed", state, self.state_dict())
        epoch = place("Replayed", state, "epoch")
        position = place("Replayed", state, "position", self._length())
        last = state["last"]
        if not (isinstance(last, list) and all(isinstance(sample, Tensor) for sample in last)):
            raise ValueError(
                f"Replayed: last in state must be a list of tensors, got {describe(last)}; the "
                f"state is damaged, load another"
            )
        self._epochs.restore(epoch, position)
        self._last = [sample.cpu() for sample in last]

    def _length(self) -> int | None:
        try:
            return len(self)
        except TypeError:  # a loader of a stream
            return None

    def _fetched(self, epoch: int) -> Iterator[Given]:
        """Yield the batches of an epoch, fetched under its own random states."""
        seed = int.from_bytes(hashlib.sha256(f"{self.seed} {epoch}".encode()).digest()[:8], "big")
        for owner in _parts_of(self.batches):
            if isinstance(own := getattr(owner, "generator", None), torch.Generator):
                own.manual_seed(seed)
            if callable(tell := getattr(owner, "set_epoch", None)):
                tell(epoch)
        states = _RandomStates(seed)
        with states.in_place():
            batches = iter(self.batches)
        while True:
            with states.in_place():
                batch = next(batches, _END)
            if batch is _END:
                return
            yield given("Replayed", batch)

    def _pass_over(self, batches: Iterator[Given]) -> None:
        """Fetch what was handed out before; raise RuntimeError where it is something else."""
        count, batch = 0, None
        while count < self.position and (batch := next(batches, None)) is not None:
            count += 1
        problem = f"another batch {count} than before"
        if count < self.position:
            problem = f"{count} batches, where {self.position} were handed out before"
        elif batch is not None and _same(_sample(batch), self._last):
            return
        raise RuntimeError(
            f"Replayed: batches must give epoch {self.epoch} again as it was, got {problem}; give "
            f"the loader that the state was saved with, and let what it draws come from torch's, "
            f"numpy's or Python's global random numbers"
        )


class _RandomStates:
    """The random states of torch on the CPU, numpy and Python for one epoch of a loader."""

    def __init__(self, seed: int) -> None:
        self._inside = (
            torch.Generator().manual_seed(seed).get_state(),
            np.random.RandomState(seed % 2**32).get_state(),
            random.Random(seed).getstate(),
        )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put them in place of the global ones, and keep how far they got."""
        with exclusively():
            outside = _global_states()
            _set_global_states(*self._inside)
            try:
                yield
            finally:
                self._inside = _global_states()
                _set_global_states(*outside)


def _global_states() -> tuple[Tensor, Any, Any]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _set_global_states(of_torch: Tensor, of_numpy: Any, of_python: Any) -> None:
    torch.set_rng_state(of_torch)
    np.random.set_state(of_numpy)
    random.setstate(of_python)


def _parts_of(loader: object) -> list[object]:
    """Return a loader and its samplers, which may have generators and count epochs."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    sampler = getattr(loader, "sampler", None)
    return [loader, batch_sampler, sampler, getattr(batch_sampler, "sampler", None)]


def _sample(batch: Given) -> list[Tensor]:
    """Return a few elements of every tensor, copied: a training step may write on a batch."""
    flat = [x.detach().reshape(-1) for x in tensors_of(batch)]
    return [x[:: max(1, len(x) // _ELEMENTS)].clone() for x in flat]


def _same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether all elements are equal, NaN with NaN too."""
    return len(ours) == len(theirs) and all(
        a.dtype == b.dtype and torch.equal(a.cpu().view(torch.uint8), b.view(torch.uint8))
        for a, b in zip(ours, theirs, strict=True)
    )
