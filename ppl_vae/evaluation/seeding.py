"""Draws that depend only on a seed and leave the global random state unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ppl_vae.errors import seed_of
from ppl_vae.process_state import exclusively


@contextmanager
def seeded(owner: str, seed: int) -> Iterator[None]:
    """Seed torch's generators and restore them at exit; no other thread draws meanwhile.

    Raises:
        TypeError: if the seed is not an integer.
        ValueError: if it is negative, or has more than 64 bits.
    """
    seed = seed_of(owner, seed)
    # Seeding a device that is not in use would still take effect later.
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with exclusively(), torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield
