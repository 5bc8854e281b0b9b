"""Image files: finding them and reading them as uint8."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import quoted, reason
from ppl_vae.files import memory, opened

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp")
# Pillow goes by what is in a file, whatever its name, and would start Ghostscript for PostScript.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
LARGEST = 2**28
"""Bytes of an image file, at most."""
MOST_PIXELS = 2**26
"""Pixels of an image, at most: a file of a few bytes can have very many."""
MOST_FILES = 2**20
"""Entries of a folder, at most."""

# What Pillow raises for damaged files of one format or another; OverflowError and MemoryError are
# of sizes that lie.
_NOT_READ = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError),
    *(OverflowError, MemoryError, struct.error, zlib.error),
)


def visible(folder: Path) -> list[Path]:
    """Return what is in ``folder``, sorted, but for names that start with a dot."""
    if not folder.is_dir():
        return []
    if not _few(folder):
        raise ValueError(
            f"{quoted(folder)} has more than {MOST_FILES} entries, which is slow to read and to "
            f"list; put the values into one .npy file, with np.save"
        )
    return sorted(folder / name for name in os.listdir(folder) if not name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """Return the image files in ``folder``, sorted."""
    return [p for p in visible(folder) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]


def labelled_files(folders: Iterable[Path]) -> tuple[list[Path], Tensor]:
    """Return the image files of all ``folders``, each labelled with the number of its folder."""
    found = [(file, label) for label, folder in enumerate(folders) for file in image_files(folder)]
    return [file for file, _ in found], torch.tensor([label for _, label in found])


def read_images(files: list[Path], size: tuple[int, int] | None, grey: bool) -> Tensor:
    """Read images of one size, uint8 of shape ``(N, channels, height, width)``."""
    first = _read_image(files[0], size, grey)
    if (needed := first.numel() * len(files)) > memory():
        raise ValueError(
            f"{len(files)} images as {quoted(files[0])} need {needed} bytes of memory, more than "
            f"this machine has; give a smaller size="
        )
    images = first.new_empty((len(files), *first.shape))
    for i, file in enumerate(files):
        image = _read_image(file, size, grey) if i else first
        if image.shape != first.shape:
            raise ValueError(
                f"images must have one size, got {tuple(first.shape[1:])} in {quoted(files[0])} "
                f"and {tuple(image.shape[1:])} in {quoted(file)}; give size=(height, width)"
            )
        images[i] = image
    return images


def _read_image(file: Path, size: tuple[int, int] | None, grey: bool) -> Tensor:
    from PIL import Image

    try:
        with opened(file, LARGEST) as read, warnings.catch_warnings():
            # Pillow's own limit is greater; and it warns of images that are read.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(read, formats=IMAGE_FORMATS) as found:
                # Pillow would clip 16-bit and real-valued images to 255 without a word.
                if found.mode[0] in "IF":
                    raise ValueError(f"it has mode {found.mode}, expected 8 bits per channel")
                if found.width * found.height > MOST_PIXELS:
                    raise ValueError(
                        f"it has {found.width} x {found.height} pixels, and may have "
                        f"{MOST_PIXELS}; make it smaller first"
                    )
                image = found.convert("L" if grey else "RGB")
    except (*_NOT_READ, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{quoted(file)} must be a readable 8-bit image: {reason(error)}"
        ) from error
    if size is not None:
        height, width = size
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.tensor(np.asarray(image))
    return pixels.unsqueeze(0) if grey else pixels.permute(2, 0, 1)


def _few(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return next(islice(entries, MOST_FILES, None), None) is None
