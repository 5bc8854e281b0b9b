"""Loading by name or by path, one split at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ppl_vae.data.builtin import LOADERS
from ppl_vae.data.custom import from_file, from_folder
from ppl_vae.data.dataset import Dataset
from ppl_vae.errors import describe, path_of, quoted

SPLITS = ("train", "test")


def load(
    source: str | Path,
    *,
    root: str | Path | None = None,
    split: str = "train",
    scale: int | float | None = None,
    missing: str | None = None,
    channels: str | None = None,
    grey: bool | None = None,
    x: str | None = None,
    y: str | None = None,
    mask: str | None = None,
    classes: Sequence[str] | None = None,
    size: int | Sequence[int] | None = None,
    test_fraction: int | float | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a dataset by name, or your own from a ``.npy`` or ``.npz`` file or a folder of images.

    ``"digits"`` comes with scikit-learn: 1,797 scans of 8x8 pixels, 17 levels. It has no official
    split: a fixed seed holds out 360 for the test, each digit in proportion. ``"mnist"``,
    ``"fashion-mnist"`` and ``"kmnist"`` are 60,000 + 10,000 images of 28x28. ``"omniglot"`` is
    19,280 + 13,180 drawings, ink bright, resized from 105x105 to 28x28; its train and test labels
    number *different* characters, and its split is not that of the 28x28 files used in papers.
    These four are read by torchvision, and downloaded if absent.

    Args:
        source: one of the names in `LOADERS`, or a path.
        root: folder of the named datasets; None is the environment variable ``PPL_VAE_DATA``, or
            ``./data`` without it.
        split: ``"train"`` or ``"test"``.
        scale: of your own file, as in `from_tensor`.
        missing: ``"nan"`` if NaN in your own file is what is missing, as in `from_tensor`.
        channels: ``"first"`` or ``"last"``, of images in your own file, as in `from_tensor`.
        grey: of your own images, as in `from_folder`.
        x: what the values are called in your own ``.npz`` file, as in `from_file`; and likewise
        y: the labels,
        mask: and what is observed.
        classes: the names of the classes of your own data, in the order of their numbers, as in
            `Dataset`.
        size: of your own images, as in `from_folder`.
        test_fraction: of your own data, which has no official split; None is 0.1. See
            `Dataset.split`.
        seed: of that split.

    Raises:
        FileNotFoundError: the data are absent and cannot be downloaded; nothing is left behind.
        ImportError: torchvision is missing or does not match torch.
        ValueError: unknown name or split; an option that this source does not take; damaged data.

    Example:
        >>> load("digits", split="test")
        Dataset('digits', 360 x (1, 8, 8), torch.uint8 / 16, 10 classes)
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {describe(split)}")
    if isinstance(source, str) and source in LOADERS:
        _refuse(source, scale=scale, missing=missing, x=x, y=y, mask=mask, classes=classes)
        _refuse(source, channels=channels, grey=grey, size=size, test_fraction=test_fraction)
        folder = path_of("", "root", root or os.environ.get("PPL_VAE_DATA") or "data")
        return LOADERS[source](folder.expanduser().absolute(), split)
    path = path_of("", "source", source).expanduser()
    if path.is_dir():
        _refuse(source, scale=scale, missing=missing, channels=channels, x=x, y=y, mask=mask)
        dataset = from_folder(path, size=size, grey=grey, classes=classes)
    elif path.suffix in (".npy", ".npz"):
        _refuse(source, grey=grey, size=size)
        dataset = from_file(
            path,
            scale=scale,
            missing=missing,
            channels=channels,
            x=x,
            y=y,
            mask=mask,
            classes=classes,
        )
    else:
        raise ValueError(
            f"source must be one of {', '.join(LOADERS)}, or a path to a .npy or .npz file or to "
            f"an existing folder of images, got {quoted(source)}"
        )
    fraction = 0.1 if test_fraction is None else test_fraction
    return dataset.split(fraction, seed)[SPLITS.index(split)]


def _refuse(source: str | Path, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise ValueError(
                f"{option} does not apply to source {quoted(source)}, got {quoted(value)}; drop it"
            )
