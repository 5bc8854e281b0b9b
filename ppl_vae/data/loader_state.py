"""The position of a loader in its epochs, and saved states of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ppl_vae.errors import describe, quoted, reason


class Progress:
    """The current epoch, from 0, and its position: how many of its batches were yielded.

    An iteration calls `begin`, `advance` before it yields a batch, and `end`. If several are under
    way, only the latest is counted; those from before a `restore` must not continue.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.position = 0
        self.start = torch.empty(0, dtype=torch.uint8)  # the random state at the epoch's start
        self._pending = True  # this epoch awaits an iteration
        self._latest = 0  # number of the latest iteration
        self._expired = 0  # iterations up to this number must not continue

    def begin(self) -> int:
        """Start the pending epoch, or else the next one; return the iteration's number."""
        if not self._pending:
            self.epoch, self.position = self.epoch + 1, 0
        self._pending = False
        self._latest += 1
        return self._latest

    def check(self, owner: str, iteration: int) -> None:
        """Raise RuntimeError if a state was loaded since ``iteration`` began."""
        if iteration <= self._expired:
            raise RuntimeError(
                f"{owner}: an iteration must begin after load_state_dict, got one from before it; "
                f"iterate anew"
            )

    def advance(self, iteration: int) -> None:
        """Count one more batch."""
        if iteration == self._latest:
            self.position += 1

    def end(self, iteration: int) -> None:
        """Move on to the next epoch."""
        if iteration == self._latest:
            self.epoch, self.position, self._pending = self.epoch + 1, 0, True

    def restore(self, epoch: int, position: int) -> None:
        """Let the next iteration resume from this position."""
        self.epoch, self.position, self._pending = epoch, position, True
        self._expired = self._latest


class Epochs:
    """A loader whose iterations are epochs."""

    _progress: Progress

    @property
    def epoch(self) -> int:
        """The current epoch, from 0; between epochs the next one."""
        return self._progress.epoch

    @property
    def position(self) -> int:
        """How many batches of the epoch were yielded."""
        return self._progress.position


class SavedState:
    """A state to be loaded, checked for the keys and the ``settings`` of the present one.

    Args:
        owner: the loader, for messages.
        state: the state to be loaded.
        like: the present one.
    """

    def __init__(self, owner: str, state: object, like: Mapping[str, object]) -> None:
        fix = f"give what {owner}.state_dict() returned"
        if not isinstance(state, Mapping):
            raise TypeError(f"{owner}: state must be a dict, got {describe(state)}; {fix}")
        ours, theirs = like["settings"], state.get("settings")
        if set(state) != set(like) or not (isinstance(ours, dict) and isinstance(theirs, dict)):
            expected = ", ".join(sorted(like))
            keys = reason(", ".join(sorted(map(str, state)))) or "none"
            raise ValueError(f"{owner}: state must have the keys {expected}, got {keys}; {fix}")
        different = [
            f"{reason(str(name))}={quoted(theirs.get(name))} (here {quoted(ours.get(name))})"
            for name in dict.fromkeys((*ours, *theirs))
            if theirs.get(name) != ours.get(name)
        ]
        if different:
            raise ValueError(
                f"{owner}: state must come from the same data and settings, got one with "
                f"{', '.join(different)}; make the loader as it was, or start without the state"
            )
        self._owner = owner
        self._state = state

    def __getitem__(self, key: str) -> object:
        return self._state[key]

    def damaged(self, key: str, expected: str, got: str) -> ValueError:
        """Return the error for a value that no loader has written."""
        return ValueError(
            f"{self._owner}: {key} in state must {expected}, got {got}; the state is damaged, "
            f"load another"
        )

    def count(self, key: str, most: int | None = None) -> int:
        """Return the number under ``key``; raise ValueError unless it is 0, 1, ..., ``most``."""
        value = self[key]
        if type(value) is not int or value < 0 or (most is not None and value > most):
            limit = "0 or more" if most is None else f"from 0 to {most}"
            raise self.damaged(key, f"be an integer {limit}", describe(value))
        return value

    def random_state(self, key: str, generator: torch.Generator) -> Tensor:
        """Return the state under ``key``; raise ValueError unless ``generator`` can take it."""
        value = self[key]
        try:
            if not isinstance(value, Tensor):
                raise TypeError(f"got {describe(value)}")
            value = value.cpu()  # if a checkpoint was read onto a device
            generator_at(generator, value)
        except (RuntimeError, TypeError) as error:
            expected = f"be a state of a random generator on {generator.device.type}"
            raise self.damaged(key, expected, f"{describe(value)} ({error})") from error
        return value


def generator_at(generator: torch.Generator, state: Tensor) -> torch.Generator:
    """Return a new generator on the device of ``generator``, in ``state``."""
    other = torch.Generator(generator.device)
    other.set_state(state)
    return other
