"""The data of the tables; those of a smoke run are bundled."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ppl_vae.data import Dataset, load
from ppl_vae.reproduction.training import Data

SILHOUETTES = "silhouettes/caltech101_silhouettes_28.mat"
SIZES = (4100, 2264, 2307)
"""Of training, validation and test silhouettes, as in the split that is in use."""


def mnist(extent: str) -> Data:
    """Return MNIST, all 60,000 to train on."""
    name = "digits" if extent == "smoke" else "mnist"
    return Data(load(name), load(name, split="test"))


def with_validation(name: str, extent: str) -> Data:
    """Return data by name, a sixth of the training data held out for validation."""
    name = "digits" if extent == "smoke" else name
    train, validation = load(name).split(1 / 6, seed=0)
    return Data(train, load(name, split="test"), validation)


def silhouettes(extent: str) -> Data:
    """Return the Caltech 101 silhouettes (Marlin et al. 2010), split at random with seed 0.

    The file is read from the folder of the data, ``$PPL_VAE_DATA`` or ``./data``.
    """
    if extent == "smoke":
        return with_validation("digits", extent)
    from scipy.io import loadmat  # slow to import

    file = Path(os.environ.get("PPL_VAE_DATA") or "data") / SILHOUETTES
    if not file.is_file():
        raise FileNotFoundError(
            f"the silhouettes must be at {file}; get caltech101_silhouettes_28.mat of B. Marlin, "
            f"and set PPL_VAE_DATA to the folder that holds silhouettes/"
        )
    # Column by column, and 1 is the background.
    images = 1 - torch.from_numpy(loadmat(file)["X"]).reshape(-1, 28, 28).mT
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    parts = images[order].unsqueeze(1).split(SIZES)
    train, validation, test = (Dataset(p.contiguous(), name="silhouettes", scale=1) for p in parts)
    return Data(train, test, validation)


def shifted(x: Tensor, most: int = 2) -> Tensor:
    """Return images, shape ``(B, C, H, W)``, each moved by up to ``most`` pixels up and across.

    All (2 · most + 1)² shifts are equally probable, and zeros move in.
    """
    height, width = x.shape[-2:]
    offsets = torch.randint(2 * most + 1, (2, len(x), 1), device=x.device)
    rows = offsets[0] + torch.arange(height, device=x.device)
    columns = offsets[1] + torch.arange(width, device=x.device)
    item = torch.arange(len(x), device=x.device)[:, None, None]
    padded = F.pad(x, (most,) * 4).movedim(1, -1)
    return padded[item, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
