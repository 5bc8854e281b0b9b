"""Image files: finding them and reading them as uint8."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp")


def visible(folder: Path) -> list[Path]:
    """Return what is in ``folder``, sorted, but for names that start with a dot."""
    return sorted(p for p in folder.glob("*") if not p.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """Return the image files in ``folder``, sorted."""
    return [p for p in visible(folder) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]


def labelled_files(folders: Iterable[Path]) -> tuple[list[Path], Tensor]:
    """Return the image files of all ``folders``, each labelled with the number of its folder."""
    found = [(file, label) for label, folder in enumerate(folders) for file in image_files(folder)]
    return [file for file, _ in found], torch.tensor([label for _, label in found])


def read_images(files: list[Path], size: int | tuple[int, int] | None, grey: bool) -> Tensor:
    """Read images of one size, uint8 of shape ``(N, channels, height, width)``."""
    images = [_read_image(file, size, grey) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"images must have one size, got {tuple(images[0].shape[1:])} in '{files[0]}' and "
                f"{tuple(image.shape[1:])} in '{file}'; give size=(height, width)"
            )
    return torch.stack(images)


def _read_image(file: Path, size: int | tuple[int, int] | None, grey: bool) -> Tensor:
    from PIL import Image

    try:
        with Image.open(file) as opened:
            # Pillow would clip 16-bit and real-valued images to 255 without a word.
            if opened.mode[0] in "IF":
                raise ValueError(f"it has mode {opened.mode}, expected 8 bits per channel")
            image = opened.convert("L" if grey else "RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"'{file}' must be a readable 8-bit image: {error}") from error
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.tensor(np.asarray(image))
    return pixels.unsqueeze(0) if grey else pixels.permute(2, 0, 1)
