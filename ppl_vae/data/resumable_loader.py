"""Loaders of other libraries, such as PyTorch's DataLoader, made resumable."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ppl_vae import random_state
from ppl_vae.data.loader_state import Epochs, Progress, SavedState
from ppl_vae.data.minibatch import Given, given, tensors_of
from ppl_vae.errors import describe, seed_of
from ppl_vae.process_state import restored

_ELEMENTS = 64  # of each tensor, that enter the checksum of a batch
_END = object()
_OWNER = "ResumableLoader"


class ResumableLoader(Epochs):
    """The epochs of any loader, the same for one seed in every process, and resumable.

    Every epoch starts from random states that depend on ``seed`` and its number alone: of torch,
    NumPy and Python's ``random``, and of the generators of a DataLoader and its samplers. They are
    in place only while a batch is fetched, so that data and model do not affect each other's random
    numbers; workers take their seeds from there. Samplers with ``set_epoch`` are told the epoch.

    A loader with ``state_dict`` and ``load_state_dict``, such as torchdata's StatefulDataLoader, is
    resumed through them, exactly unless its workers draw random numbers, which torchdata does not
    save. Any other is iterated over again from the epoch's start, skipping what was yielded before.
    This is exact if all randomness comes from the sources above; a checksum of the last batch
    reveals other sources.

    Args:
        loader: an iterable, each iteration one epoch, that yields a tensor, a tuple or list of
            tensors, a mapping of names to tensors (or a named tuple), or `Part`s. Batches come as
            a tuple, or as a dict if they have names.
        seed: of all epochs.

    Raises:
        TypeError: not an iterable, or an iterator; batches of other types (when they are fetched).
        ValueError: a DataLoader with ``persistent_workers=True``, whose workers' random numbers
            depend on the epochs before, or with ``in_order=False``.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> loader = DataLoader(TensorDataset(torch.arange(10)), batch_size=4, shuffle=True)
        >>> first = [x for x, in ResumableLoader(loader, seed=1)]
        >>> again = [x for x, in ResumableLoader(loader, seed=1)]
        >>> all(torch.equal(a, b) for a, b in zip(first, again))
        True
    """

    def __init__(self, loader: Iterable[Any], *, seed: int = 0) -> None:
        # Nothing is iterated over here: that would start workers and draw random numbers.
        if isinstance(loader, Iterator) or not isinstance(loader, Iterable):
            raise TypeError(
                f"{_OWNER}: loader must be iterable once per epoch, got {describe(loader)}; give a "
                f"DataLoader or a list, not an iterator or generator"
            )
        for option, value, why in (
            ("persistent_workers", False, "the workers' random numbers cannot be restored"),
            ("in_order", True, "the order would depend on which worker is fastest"),
        ):
            if getattr(loader, option, value) != value:
                expected = f"{option}={value}, got {not value}; {why}"
                raise ValueError(f"{_OWNER}: loader must have {expected}")
        self.loader = loader
        self.seed = seed_of(_OWNER, seed)
        self._progress = Progress()
        self._is_stateful = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
        self._loaded: Any = None  # what the next iteration resumes from
        self._random: _RandomStates | None = None  # of the latest iteration
        self._last: list[Tensor] = []  # elements of the latest batch

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"{_OWNER}({type(self.loader).__name__}, seed={self.seed})"

    def __iter__(self) -> Iterator[Given]:
        iteration = self._progress.begin()
        batches = self._batches()
        while True:
            self._progress.check(_OWNER, iteration)
            if (batch := next(batches, None)) is None:
                break
            self._last = _elements(batch)
            self._progress.advance(iteration)
            yield batch
        self._progress.end(iteration)

    def state_dict(self) -> dict[str, object]:
        """Return the position, and the loader's state or a checksum; see `Batches.state_dict`."""
        state = self._loaded
        if state is None and self._is_stateful:
            state = self._state_of_loader()
        elif state is None and self.position:
            state = _checksum(self._last)
        settings = {"seed": self.seed, "batches": self._length, "stateful": self._is_stateful}
        place = {"epoch": self.epoch, "position": self.position}
        return {**place, "loader": state, "settings": settings}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Resume from ``state``: the next iteration yields the rest of that epoch.

        It raises RuntimeError if skipped batches are not those that were yielded.

        Raises TypeError or ValueError for a state of another seed, number of batches or kind of
        loader; nothing has changed then.
        """
        saved = SavedState(_OWNER, state, self.state_dict())
        epoch, position = saved.count("epoch"), saved.count("position", self._length)
        loaded: Any = saved["loader"]
        if not self._is_stateful and position:
            saved.count("loader")
        elif position:
            if not isinstance(loaded, Mapping) or set(loaded) != {"state", "random"}:
                raise saved.damaged("loader", "have the keys random, state", describe(loaded))
            random_state.check_random_state(loaded["random"])
        self._loaded = loaded
        self._progress.restore(epoch, position)

    @property
    def _length(self) -> int | None:
        try:
            return len(self)
        except TypeError:  # a loader of a stream
            return None

    def _state_of_loader(self) -> dict[str, Any] | None:
        # A DataLoader's epoch follows from the seed; torchdata's would start it too early if asked.
        if not self.position and isinstance(self.loader, DataLoader):
            return None
        loader: Any = self.loader
        if not self.position or self._random is None:
            return {"state": loader.state_dict(), "random": None}
        with self._random.in_place(keep=False):
            return {"state": loader.state_dict(), "random": random_state.random_state()}

    def _batches(self) -> Iterator[Given]:
        """Yield the epoch's batches from the position on, fetched under random states of its own.

        Raises RuntimeError if those before it are different from what they were.
        """
        loaded, self._loaded = self._loaded, None
        digest = hashlib.sha256(f"{self.seed} {self.epoch}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big")
        self._random = random = _RandomStates(seed)
        stateful: Any = self.loader if self._is_stateful and loaded is not None else None
        if stateful is not None and not self.position:  # the seed's generators win
            stateful.load_state_dict(loaded["state"])
        for part in _loader_and_samplers(self.loader):
            if isinstance(generator := getattr(part, "generator", None), torch.Generator):
                generator.manual_seed(seed)
            if callable(set_epoch := getattr(part, "set_epoch", None)):
                set_epoch(self.epoch)
        with random.in_place():
            if stateful is not None and self.position:  # its generators win
                stateful.load_state_dict(loaded["state"])
            iterator = iter(self.loader)
            if stateful is not None and self.position:
                random_state.set_random_state(loaded["random"])
        batches = self._fetched(iterator, random)
        if loaded is not None and not self._is_stateful:
            last = next(islice(batches, self.position - 1, None), ())
            if _checksum(_elements(last)) != loaded:
                raise RuntimeError(
                    f"{_OWNER}: loader must repeat epoch {self.epoch} exactly, got a different "
                    f"batch {self.position}; give the loader that the state was saved with, random "
                    f"by torch's, NumPy's or Python's global generators alone"
                )
        return batches

    def _fetched(self, iterator: Iterator[Any], random: _RandomStates) -> Iterator[Given]:
        while True:
            with random.in_place():
                batch = next(iterator, _END)
            if batch is _END:
                return
            yield given(_OWNER, batch)


class _RandomStates:
    """The states of the global random number generators while batches are fetched."""

    def __init__(self, seed: int) -> None:
        with restored():
            random_state.seed_everything(seed)
            self._states = random_state.snapshot()

    @contextmanager
    def in_place(self, *, keep: bool = True) -> Iterator[None]:
        """Put them in place of the outer ones, and keep what becomes of them or not."""
        with restored():
            random_state.put_back(self._states)
            try:
                yield
            finally:
                if keep:
                    self._states = random_state.snapshot()


def _loader_and_samplers(loader: object) -> list[object]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    sampler = getattr(loader, "sampler", None)
    return [loader, batch_sampler, sampler, getattr(batch_sampler, "sampler", None)]


def _elements(batch: Given) -> list[Tensor]:
    """Return a few elements of every tensor, copied: a training step may write to a batch."""
    flat = [x.detach().reshape(-1) for x in tensors_of(batch)]
    return [x[:: max(1, len(x) // _ELEMENTS)].clone() for x in flat]


def _checksum(elements: list[Tensor]) -> int:
    checksum = 0
    for x in elements:
        data = x.cpu().view(torch.uint8).numpy().tobytes()
        checksum = zlib.crc32(f"{x.dtype} {len(x)} ".encode() + data, checksum)
    return checksum
