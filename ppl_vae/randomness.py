"""The states of all random number generators, taken and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_OF_CUDA = 64  # bytes; they are 16


def random_state() -> dict[str, Any]:
    """Return the states of torch, of every CUDA device in use, of numpy and of Python."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, words, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [
            str(name),
            torch.tensor(np.asarray(keys, dtype=np.int64), device="cpu"),
            position,
            has_gauss,
            gauss,
        ],
        "python": [version, torch.tensor(words, device="cpu"), gauss_next],
    }


def check_random_state(state: Any) -> None:
    """Raise ValueError unless :func:`set_random_state` can take a state from a file.

    numpy does not look where a state is to go on, and would read memory that is not its own.
    """
    like = random_state()
    if not isinstance(state, dict) or state.keys() != like.keys():
        raise ValueError("it must be the states of torch, cuda, numpy and python")
    try:
        torch.Generator().set_state(state["torch"])
        for one in state["cuda"]:
            if one.dtype != torch.uint8 or one.ndim != 1 or len(one) > _OF_CUDA:
                raise ValueError("it is no state of a GPU's generator")
        name, keys, position, has_gauss, gauss = state["numpy"]
        _check_words(keys, 624)
        if not (type(position) is type(has_gauss) is int and 0 <= position <= 624):
            raise ValueError(f"numpy's place is {position!r:.40}")
        np.random.RandomState().set_state(
            (name, keys.numpy().astype(np.uint32), position, has_gauss, float(gauss))
        )
        version, words, gauss_next = state["python"]
        _check_words(words, 625)
        random.Random().setstate((version, tuple(words.tolist()), gauss_next))
        if not (gauss_next is None or type(gauss_next) is float):
            raise ValueError("Python's next number is none")
    except (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"no state of random generators: {str(error)[:100]}") from error


def _check_words(words: Any, number: int) -> None:
    if not isinstance(words, torch.Tensor) or words.dtype != torch.int64:
        raise TypeError("its words must be integers")
    if words.shape != (number,) or bool(((words < 0) | (words >= 2**32)).any()):
        raise ValueError(f"it must have {number} words of 32 bits")


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators in the states that :func:`random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, words, gauss_next = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss_next))


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def restored() -> Iterator[None]:
    """Leave all generators as they were."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def generators(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states of torch's generators that are drawn from on a device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(device: torch.device, states: Mapping[str, torch.Tensor]) -> None:
    """Put the generators in the states that :func:`generators` returned."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
