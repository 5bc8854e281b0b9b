"""Image files: finding them and reading them as uint8."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import quoted, reason
from ppl_vae.files import memory, opened

if TYPE_CHECKING:
    from PIL import Image

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


_GREY = ("1", "L", "LA", "La")
"""Pillow's modes of images without colour."""


def read_images(
    files: list[Path], size: tuple[int, int] | None, grey: bool | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Read images of one size, uint8 of shape ``(N, channels, height, width)``.

    Args:
        files: the images.
        size: resize to ``(height, width)``.
        grey: one channel if True, three if False; three where any image has colour if None.

    Returns:
        The images, and in words what was done to some of them.
    """
    done: Counter[str] = Counter()
    first = _read_image(files[0], size, grey, done)
    images = _room_for(first, files)
    for i, file in enumerate(files):
        image = _read_image(file, size, grey, done) if i else first
        if image.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"images must have one size, got {tuple(first.shape[1:])} in {quoted(files[0])} "
                f"and {tuple(image.shape[1:])} in {quoted(file)}; give size=(height, width)"
            )
        if len(image) > images.shape[1]:  # the first one that has colour
            colour = _room_for(image, files)
            colour[:i] = images[:i]
            images = colour
        images[i] = image
    if images.shape[1] == 1:
        del done[_WITHOUT_COLOUR]
    told = (f"{what} in {count} of {len(files)} images" for what, count in done.items())
    return images, tuple(told)


_WITHOUT_COLOUR = "grey made three equal channels"


def _room_for(image: Tensor, files: list[Path]) -> Tensor:
    """Return a tensor for as many images as there are files, all as one is."""
    if (needed := image.numel() * len(files)) > memory():
        raise ValueError(
            f"{len(files)} images as {quoted(files[0])} need {needed} bytes of memory, more than "
            f"this machine has; give a smaller size="
        )
    return image.new_empty((len(files), *image.shape))


def _read_image(
    file: Path, size: tuple[int, int] | None, grey: bool | None, done: Counter[str]
) -> Tensor:
    from PIL import ExifTags, Image, ImageOps

    try:
        with opened(file, LARGEST) as read, warnings.catch_warnings():
            # Pillow's own limit is greater; and it warns of images that are read.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(read, formats=IMAGE_FORMATS) as found:
                _refuse_depth(found)
                if found.width * found.height > MOST_PIXELS:
                    raise ValueError(
                        f"it has {found.width} x {found.height} pixels, and may have "
                        f"{MOST_PIXELS}; make it smaller first"
                    )
                has_colour = _has_colour(found)
                # Of a camera that was not upright; loading a TIFF turns it, and drops the tag.
                turned = found.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
                image = found.convert("RGB" if (has_colour if grey is None else not grey) else "L")
                done.update(_conversions(found, has_colour, grey))
                if turned:
                    ImageOps.exif_transpose(image, in_place=True)
                    done["turned as its EXIF orientation says"] += 1
    except (*_NOT_READ, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{quoted(file)} must be a readable 8-bit image: {reason(error)}"
        ) from error
    if size is not None:
        height, width = size
        if image.size != (width, height):
            done[f"resized to {height} x {width}"] += 1
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.tensor(np.asarray(image))
    return pixels.unsqueeze(0) if image.mode == "L" else pixels.permute(2, 0, 1)


def _has_colour(image: Image.Image) -> bool:
    if image.mode in ("P", "PA"):
        palette = image.getpalette("RGB") or []
        return not (palette[::3] == palette[1::3] == palette[2::3])
    return image.mode not in _GREY


def _refuse_depth(image: Image.Image) -> None:
    """Raise ValueError for more than 8 bits per channel, which Pillow would drop without a word."""
    # Of colour the mode does not tell, but how the file's bytes are unpacked does: RGB;16B, or in
    # .ppm files the greatest value.
    how = [tile[3] for tile in getattr(image, "tile", ())]
    deep = any(";16" in str(h) or (isinstance(h, tuple) and _greatest(h) > 255) for h in how)
    if image.mode[0] in "IF" or deep:
        raise ValueError(
            f"it has mode {image.mode} of more than 8 bits per channel; save it with 8, or all "
            f"images in one .npy file, and give its scale"
        )


def _greatest(unpacked: tuple[object, ...]) -> int:
    """Return the second entry of how a .ppm file's bytes are unpacked."""
    return unpacked[1] if unpacked[1:] and isinstance(unpacked[1], int) else 0


def _conversions(image: Image.Image, has_colour: bool, grey: bool | None) -> Iterator[str]:
    """Say what becomes of an image."""
    if getattr(image, "is_animated", False):
        yield "frames after the first dropped"
    if image.has_transparency_data:
        yield "alpha (transparency) dropped"
    if image.mode in ("P", "PA"):
        yield f"palette made {'colours' if has_colour and not grey else 'grey values'}"
    elif has_colour and not image.mode.startswith("RGB"):
        yield f"{image.mode} converted to RGB"
    if has_colour and grey:
        yield "colour made grey"
    elif not has_colour and not grey:
        yield _WITHOUT_COLOUR


def _few(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return next(islice(entries, MOST_FILES, None), None) is None
