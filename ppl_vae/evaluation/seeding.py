"""Draws that depend only on a seed and leave the global random state unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ppl_vae.errors import seed_of
from ppl_vae.process_state import exclusively
from ppl_vae.random_state import restored


@contextmanager
def seeded(owner: str, seed: int) -> Iterator[None]:
    """Seed torch's generators and restore them at exit; no other thread draws meanwhile.

    Raises:
        TypeError: if the seed is not an integer.
        ValueError: if it is negative, or has more than 64 bits.
    """
    seed = seed_of(owner, seed)
    with exclusively(), restored():
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # otherwise torch would remember to seed the devices later
            torch.cuda.manual_seed_all(seed)
        yield
