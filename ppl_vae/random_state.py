"""The states of all random number generators, taken and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

_OF_CUDA = 64  # bytes; they are 16


Snapshot: TypeAlias = tuple[Tensor, list[Tensor], Any, Any]
"""States of torch, of every CUDA device in use, of numpy and of Python, as they have them."""


def snapshot() -> Snapshot:
    """Return the states of all generators, to be put back by :func:`put_back`."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def put_back(states: Snapshot) -> None:
    """Put the generators in the states that :func:`snapshot` returned."""
    of_torch, of_cuda, of_numpy, of_python = states
    torch.set_rng_state(of_torch)
    if of_cuda:
        torch.cuda.set_rng_state_all(of_cuda)
    np.random.set_state(of_numpy)
    random.setstate(of_python)


def random_state() -> dict[str, Any]:
    """Return the states of all generators as plain data, which a file can hold."""
    of_torch, of_cuda, (name, keys, position, has_gauss, gauss), of_python = snapshot()
    version, words, gauss_next = of_python
    return {
        "torch": of_torch,
        "cuda": of_cuda,
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
    if not isinstance(words, Tensor) or words.dtype != torch.int64:
        raise TypeError("its words must be integers")
    if words.shape != (number,) or bool(((words < 0) | (words >= 2**32)).any()):
        raise ValueError(f"it must have {number} words of 32 bits")


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators in the states that :func:`random_state` returned."""
    name, keys, position, has_gauss, gauss = state["numpy"]
    version, words, gauss_next = state["python"]
    of_numpy = (name, keys.numpy().astype(np.uint32), position, has_gauss, gauss)
    of_python = (version, tuple(words.tolist()), gauss_next)
    put_back((state["torch"], state["cuda"], of_numpy, of_python))


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def numpy_generator(seed: int) -> np.random.RandomState:
    """Return NumPy's frozen generator for a seed of 64 bits; of 32, that of its own seed."""
    words = np.array([seed % 2**32, seed >> 32], dtype=np.uint32)
    return np.random.RandomState(words if words[1] else seed)


@contextmanager
def restored() -> Iterator[None]:
    """Leave all generators as they were."""
    states = snapshot()
    try:
        yield
    finally:
        put_back(states)


def generators(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's generators that are drawn from on a device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Put the generators in the states that :func:`generators` returned."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
