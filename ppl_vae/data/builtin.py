"""Datasets by name: scikit-learn's digits, sprites, and those that torchvision downloads."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from functools import cache, partial
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.dataset import Dataset
from ppl_vae.data.images import labelled_files, read_images
from ppl_vae.data.sprite_images import sprites
from ppl_vae.errors import quoted, reason
from ppl_vae.files import opened

_IDX_BYTES = 2**30
"""Size of an IDX file, at most; MNIST's largest has 47 million bytes."""
_UINT8 = 8  # IDX's code of the dtype


def _digits(root: Path, split: str) -> Dataset:
    table = _digits_and_labels()
    values = table[:, :64].reshape(-1, 1, 8, 8)
    dataset = Dataset(values, table[:, 64].long(), "digits", scale=16)
    train, test = dataset.split(360 / 1797, seed=0)
    return train if split == "train" else test


@cache
def _digits_and_labels() -> Tensor:
    """Read scikit-learn's file, 64 pixels and a label a row; importing sklearn takes a second.

    Both splits are made of it, and reading the text takes longer than all else: it is read once.
    """
    sklearn = find_spec("sklearn")
    if sklearn is not None and sklearn.origin is not None:
        file = Path(sklearn.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.exists():
            return torch.from_numpy(np.loadtxt(file, delimiter=",")).byte()
    from sklearn.datasets import load_digits

    return torch.from_numpy(np.column_stack(load_digits(return_X_y=True))).byte()


def _mnist_like(name: str, class_name: str, root: Path, split: str) -> Dataset:
    train, prefix = split == "train", "train" if split == "train" else "t10k"
    raw = root / class_name / "raw"
    images, labels = (raw / f"{prefix}-{k}-ubyte" for k in ("images-idx3", "labels-idx1"))
    if not (images.exists() and labels.exists()):
        source = partial(getattr(_torchvision_datasets(), class_name), train=train)
        _downloaded(name, root, f"{class_name}/raw/{images.name} and so on", source)
    # Not by torchvision, which prefers the pickles that its older versions left.
    try:
        values, targets = _read_idx(images, 3), _read_idx(labels, 1)
        return Dataset(values.unsqueeze(1), targets.long(), name, scale=255)
    except (OSError, ValueError) as error:
        raise _damaged(name, root, error) from error


def _read_idx(path: Path, ndim: int) -> Tensor:
    """Return the uint8 values of an IDX file: two zeros, dtype, ndim, the sizes, the values.

    Source of the format: LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/.
    """
    with opened(path, _IDX_BYTES) as file:
        data = bytearray(file.read())
    head = 4 + 4 * ndim
    if data[:4] != bytes([0, 0, _UINT8, ndim]) or len(data) < head:
        raise ValueError(f"{path.name} is not an IDX file of uint8 in {ndim} dimensions")
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, head, 4)]
    if math.prod(shape) != len(data) - head:
        raise ValueError(
            f"the header of {path.name} promises {shape}, got {len(data) - head} bytes"
        )
    return torch.frombuffer(data, dtype=torch.uint8)[head:].reshape(shape).clone()


def _omniglot(root: Path, split: str) -> Dataset:
    source = _torchvision_datasets().Omniglot
    part = "images_background" if split == "train" else "images_evaluation"
    expected = f"omniglot-py/{part}.zip and, unpacked, omniglot-py/{part}"
    source = partial(source, background=split == "train")
    try:
        found = source(root, download=False)
    except (AssertionError, OSError, RuntimeError, TypeError, ValueError) as error:
        if "download=True" not in str(error):  # torchvision's message for missing files
            raise _damaged("omniglot", root, error) from error
        _downloaded("omniglot", root, expected, source)
        found = source(root, download=False)
    # torchvision numbers the characters in the order of os.listdir, which depends on the machine.
    files, labels = labelled_files(sorted(Path(found.target_folder).glob("*/*")))
    images, _ = read_images(files, size=(28, 28), grey=True)
    return Dataset(255 - images, labels, "omniglot", scale=255)


def _sprites(root: Path, split: str) -> Dataset:
    train, test = sprites(20_000, size=32).split(0.1, seed=0)
    return train if split == "train" else test


LOADERS: dict[str, Callable[[Path, str], Dataset]] = {
    "digits": _digits,
    "mnist": partial(_mnist_like, "mnist", "MNIST"),
    "fashion-mnist": partial(_mnist_like, "fashion-mnist", "FashionMNIST"),
    "kmnist": partial(_mnist_like, "kmnist", "KMNIST"),
    "omniglot": _omniglot,
    "sprites": _sprites,
}


def _torchvision_datasets() -> ModuleType:
    try:
        from torchvision import datasets
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        raise ImportError(
            "torchvision comes from another build than torch; install both in one command: "
            "pip install --force-reinstall torch torchvision"
        ) from error
    return datasets


def _downloaded(name: str, root: Path, expected: str, source: Callable[..., Any]) -> None:
    """Download a torchvision dataset, or raise FileNotFoundError with where it may lie."""
    try:
        _download(root, source)
    except (HTTPException, OSError, RuntimeError) as error:
        lines = str(error).strip().split("\n")  # what failed, every mirror tried, the last failure
        is_of_file = isinstance(error, OSError) and error.filename is not None
        short = reason(error if is_of_file else " ".join(dict.fromkeys((lines[0], lines[-1]))))
        raise FileNotFoundError(
            f"dataset {name!r} must be in {quoted(root)} (as {expected}) or be downloadable, got "
            f"neither: {short.rstrip('.')}. Set root= or the environment variable PPL_VAE_DATA to "
            f"the folder that holds {expected.split('/')[0]}/, or load it once with a network"
        ) from error


def _damaged(name: str, root: Path, error: Exception) -> ValueError:
    return ValueError(
        f"the files of {name!r} in {quoted(root)} are incomplete or corrupt: {reason(error)}; "
        f"delete them and load again"
    )


def _download(root: Path, source: Callable[..., Any]) -> None:
    """Download beside ``root`` and move complete files there: a failure leaves nothing."""
    existing = next(p for p in (root, *root.parents) if p.is_dir())
    with tempfile.TemporaryDirectory(prefix=".ppl_vae-", dir=existing) as staging:
        source(Path(staging), download=True)
        for file in [p for p in Path(staging).rglob("*") if p.is_file()]:
            target = root / file.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
