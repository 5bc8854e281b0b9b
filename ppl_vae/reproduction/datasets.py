"""The data of the tables; those of smoke runs are bundled."""

from __future__ import annotations

from ppl_vae.data import load
from ppl_vae.reproduction.training import Data


def mnist(extent: str) -> Data:
    """Return MNIST, all 60,000 to train on; bundled digits for a smoke run."""
    name = "digits" if extent == "smoke" else "mnist"
    return Data(load(name), load(name, split="test"))
