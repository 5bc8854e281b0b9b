"""The states of all random number generators, taken and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


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
