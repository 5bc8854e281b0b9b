"""Where a run through the epochs of a loader stands, and which saved states suit it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ppl_vae.errors import describe, quoted, reason


class Epochs:
    """The epoch under way, from 0, and how many of its batches were handed out, its position.

    An iteration calls `begin`, `advance` before it hands out a batch, and `end`. Of several that
    are under way the latest counts; an iteration from before a `restore` is over.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.position = 0
        self.start = torch.empty(0, dtype=torch.uint8)  # the random state where the epoch began
        self._waiting = True  # for an iteration to take up this epoch
        self._latest = 0  # number of the latest iteration
        self._over = 0  # iterations up to this one may not go on

    def begin(self) -> int:
        """Take up the epoch that waits, else leave this one for the next; return a number."""
        if not self._waiting:
            self.epoch, self.position = self.epoch + 1, 0
        self._waiting = False
        self._latest += 1
        return self._latest

    def check(self, owner: str, iteration: int) -> None:
        """Raise RuntimeError where another place was loaded since ``iteration`` began."""
        if iteration <= self._over:
            raise RuntimeError(
                f"{owner}: an iteration must begin after load_state_dict, got one from before it; "
                f"leave that loop and iterate anew"
            )

    def advance(self, iteration: int) -> None:
        """Count one more batch."""
        if iteration == self._latest:
            self.position += 1

    def end(self, iteration: int) -> None:
        """Make the next epoch wait."""
        if iteration == self._latest:
            self.epoch, self.position, self._waiting = self.epoch + 1, 0, True

    def restore(self, epoch: int, position: int) -> None:
        """Make this place wait for an iteration that takes it up."""
        self.epoch, self.position, self._waiting = epoch, position, True
        self._over = self._latest


def check_state(owner: str, state: Mapping[str, object], like: Mapping[str, object]) -> None:
    """Raise unless ``state`` has the keys of ``like``, and the same ``settings``.

    Raises:
        TypeError: not a dict.
        ValueError: other keys, or the state of a loader with other settings.
    """
    fix = f"give what {owner}.state_dict() returned"
    if not isinstance(state, Mapping):
        raise TypeError(f"{owner}: state must be a dict, got {describe(state)}; {fix}")
    ours, theirs = like["settings"], state.get("settings")
    if set(state) != set(like) or not (isinstance(ours, dict) and isinstance(theirs, dict)):
        keys = reason(", ".join(sorted(map(str, state)))) or "none"
        raise ValueError(
            f"{owner}: state must have the keys {', '.join(sorted(like))}, got {keys}; {fix}"
        )
    other = [
        f"{reason(str(name))}={quoted(theirs.get(name))} (here {quoted(ours.get(name))})"
        for name in dict.fromkeys((*ours, *theirs))
        if theirs.get(name) != ours.get(name)
    ]
    if other:
        raise ValueError(
            f"{owner}: state must come from the same data, drawn in the same way, got one with "
            f"{', '.join(other)}; make the loader as it was when the state was saved, or go on "
            f"without it"
        )


def place(owner: str, state: Mapping[str, object], key: str, most: int | None = None) -> int:
    """Return the number under ``key``; raise ValueError unless it is 0, 1, ..., ``most``."""
    value = state[key]
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < 0
        or (most is not None and value > most)
    ):
        limit = "0 or more" if most is None else f"from 0 to {most}"
        raise ValueError(
            f"{owner}: {key} in state must be an integer {limit}, got {describe(value)}; the state "
            f"is damaged, load another"
        )
    return value


def random_state(
    owner: str, state: Mapping[str, object], key: str, generator: torch.Generator
) -> Tensor:
    """Return the random state under ``key``; raise ValueError unless ``generator`` can take it."""
    value = state[key]
    try:
        if not isinstance(value, Tensor):
            raise TypeError(f"got {describe(value)}")
        value = value.cpu()  # where a checkpoint was read onto a device
        in_state(generator, value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{owner}: {key} in state must be a state of a random generator on "
            f"{generator.device.type}, got {describe(value)} ({error}); the state is damaged, load "
            f"another"
        ) from error
    return value


def in_state(generator: torch.Generator, state: Tensor) -> torch.Generator:
    """Return another generator on the device of ``generator``, in ``state``."""
    other = torch.Generator(generator.device)
    other.set_state(state)
    return other
