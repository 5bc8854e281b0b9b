"""The states of all random number generators: torch, NumPy and Python."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

_CUDA_STATE_BYTES = 64  # at most; they are 16

Snapshot: TypeAlias = tuple[Tensor, list[Tensor], Any, Any]
"""States of torch on the CPU, of every CUDA device, of NumPy and of Python, in their own types."""


def snapshot() -> Snapshot:
    """Return the states of the global generators; those of CUDA only if it is in use."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), devices, np.random.get_state(), random.getstate()


def put_back(states: Snapshot) -> None:
    """Set the global generators to the states that :func:`snapshot` returned."""
    of_torch, of_cuda, of_numpy, of_python = states
    torch.set_rng_state(of_torch)
    if of_cuda:
        torch.cuda.set_rng_state_all(of_cuda)
    np.random.set_state(of_numpy)
    random.setstate(of_python)


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def numpy_generator(seed: int) -> np.random.RandomState:
    """Return NumPy's frozen generator for a seed of 64 bits; up to 32 bits NumPy's own seeding."""
    words = np.array([seed % 2**32, seed >> 32], dtype=np.uint32)
    return np.random.RandomState(words if words[1] else seed)


def generators(device: torch.device) -> dict[torch.device, Tensor]:
    """Return the states of torch's generators that are used on a device, by their device."""
    states = {torch.device("cpu"): torch.get_rng_state()}
    if device.type == "cuda":
        states[device] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: Mapping[torch.device, Tensor]) -> None:
    """Set the generators to the states that :func:`generators` returned."""
    for device, state in states.items():
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)


@contextmanager
def seeded_for(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's generators that are used on a device, NumPy and Python; restore them on exit.

    To seed all of torch takes a millisecond where CUDA is not in use.
    """
    of_torch, of_numpy, of_python = generators(device), np.random.get_state(), random.getstate()
    try:
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield
    finally:
        set_generators(of_torch)
        np.random.set_state(of_numpy)
        random.setstate(of_python)


def random_state() -> dict[str, Any]:
    """Return the states of all generators as plain data, for a file."""
    of_torch, of_cuda, (name, keys, position, has_gauss, gauss), of_python = snapshot()
    version, words, gauss_next = of_python
    keys = torch.tensor(np.asarray(keys, dtype=np.int64), device="cpu")
    return {
        "torch": of_torch,
        "cuda": of_cuda,
        "numpy": [str(name), keys, position, has_gauss, gauss],
        "python": [version, torch.tensor(words, device="cpu"), gauss_next],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Set the generators to the states that :func:`random_state` returned."""
    put_back((state["torch"], state["cuda"], _numpy_state(state), _python_state(state)))


def check_random_state(state: Any) -> None:
    """Raise ValueError unless a state from a file is valid for :func:`set_random_state`.

    NumPy does not check its position, and would read memory out of bounds.
    """
    if not isinstance(state, dict) or state.keys() != random_state().keys():
        raise ValueError("expected the states of torch, cuda, numpy and python")
    try:
        torch.Generator().set_state(state["torch"])
        for one in state["cuda"]:
            if one.dtype != torch.uint8 or one.ndim != 1 or len(one) > _CUDA_STATE_BYTES:
                raise ValueError("invalid state of a CUDA generator")
        _, keys, position, has_gauss, _ = state["numpy"]
        _check_words(keys, 624)
        if not (type(position) is type(has_gauss) is int and 0 <= position <= 624):
            raise ValueError(f"NumPy's position is {position!r:.40}")
        np.random.RandomState().set_state(_numpy_state(state))
        _, words, gauss_next = state["python"]
        _check_words(words, 625)
        if not (gauss_next is None or type(gauss_next) is float):
            raise ValueError("Python's next Gaussian number must be a float or None")
        random.Random().setstate(_python_state(state))
    except (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"invalid state of random generators: {str(error)[:100]}") from error


def _numpy_state(state: Mapping[str, Any]) -> tuple:
    name, keys, position, has_gauss, gauss = state["numpy"]
    return name, keys.numpy().astype(np.uint32), position, has_gauss, float(gauss)


def _python_state(state: Mapping[str, Any]) -> tuple:
    version, words, gauss_next = state["python"]
    return version, tuple(words.tolist()), gauss_next


def _check_words(words: Any, number: int) -> None:
    if not isinstance(words, Tensor) or words.dtype != torch.int64:
        raise TypeError("its words must be integers")
    if words.shape != (number,) or bool(((words < 0) | (words >= 2**32)).any()):
        raise ValueError(f"it must have {number} words of 32 bits")
