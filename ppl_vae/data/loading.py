"""Loading by name or by path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppl_vae.data.builtin import LOADERS
from ppl_vae.data.custom import from_file, from_folder
from ppl_vae.data.dataset import Dataset
from ppl_vae.errors import describe, path_of, quoted, seed_of

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
    memory_map: bool | None = None,
    classes: Sequence[str] | None = None,
    size: int | Sequence[int] | None = None,
    test_fraction: int | float | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a dataset by name, or from a ``.npy`` or ``.npz`` file or a folder of images.

    ``"digits"`` comes with scikit-learn: 1,797 scans of 8x8 pixels, 17 levels. It has no official
    split: a fixed seed holds out 360 for the test, stratified by digit. ``"mnist"``,
    ``"fashion-mnist"`` and ``"kmnist"`` are 60,000 + 10,000 images of 28x28. ``"omniglot"`` is
    19,280 + 13,180 drawings, ink bright, resized from 105x105 to 28x28; its train and test labels
    number *different* characters, and its split is not that of the 28x28 files used in papers.
    These four are downloaded by torchvision if absent. ``"sprites"`` are 18,000 + 2,000 images of
    32x32, drawn with the default factors of :func:`ppl_vae.data.sprites`, which are known.

    Args:
        source: one of the names in `LOADERS`, or a path.
        root: folder of the named datasets; by default the environment variable ``PPL_VAE_DATA``, or
            else ``./data``.
        split: ``"train"`` or ``"test"``.
        scale: of a file, as in `from_file`, and so are ``missing``, ``channels``, ``x``, ``y`` and
            ``mask``.
        memory_map: True leaves the values of a ``.npy`` file on the disk, see `from_file`; the test
            data are then its last items.
        grey: of a folder, as in `from_folder`, and so is ``size``.
        classes: the names of the classes of a file or folder, as in `Dataset`; of a named dataset
            no others than its own.
        test_fraction: of a file or folder, which has no official split; by default 0.1. See
            `Dataset.split`.
        seed: of that split.

    Raises:
        FileNotFoundError: the data are absent and cannot be downloaded; nothing is left behind.
        ImportError: torchvision is missing or does not match torch.
        ValueError: unknown name or split; an option that does not apply; damaged data.

    Example:
        >>> load("digits", split="test")
        Dataset('digits', 360 x (1, 8, 8), torch.uint8 / 16, 10 classes)
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {describe(split)}")
    of_file: dict[str, Any] = {"scale": scale, "missing": missing, "channels": channels}
    of_file |= {"x": x, "y": y, "mask": mask}
    of_file["memory_map"] = memory_map
    of_folder: dict[str, Any] = {"grey": grey, "size": size}
    seed = seed_of("", seed)
    if isinstance(source, str) and source in LOADERS:
        _refuse(source, **of_file, **of_folder, test_fraction=test_fraction)
        folder = path_of("", "root", root or os.environ.get("PPL_VAE_DATA") or "data")
        named = LOADERS[source](folder.expanduser().absolute(), split)
        if classes is not None and (named.classes is None or [*classes] != [*named.classes]):
            _refuse(source, classes=classes)
        return named
    path = path_of("", "source", source).expanduser()
    _refuse(source, root=root)
    if path.is_dir():
        _refuse(source, **of_file)
        dataset = from_folder(path, **of_folder, classes=classes)
    elif path.suffix.lower() in (".npy", ".npz"):
        _refuse(source, **of_folder)
        of_file["memory_map"] = False if memory_map is None else memory_map
        dataset = from_file(path, **of_file, classes=classes)
    else:
        a_table = path.suffix.lower() in (".csv", ".parquet")
        advice = "; a table is for ppl_vae.tables.fit, or ppl-vae fit table" if a_table else ""
        raise ValueError(
            f"source must be one of {', '.join(LOADERS)}, or a path to a .npy or .npz file or to "
            f"an existing folder of images, got {quoted(source)}{advice}"
        )
    fraction = 0.1 if test_fraction is None else test_fraction
    return dataset.split(fraction, seed)[SPLITS.index(split)]


def _refuse(source: str | Path, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise ValueError(
                f"{option} does not apply to source {quoted(source)}, got {quoted(value)}; drop it"
            )
