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
# Pillow ignores the suffix, and would start Ghostscript for PostScript.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_BYTES = 2**28
"""Size of an image file, at most."""
MAX_PIXELS = 2**26
"""Pixels of an image, at most: a small file can decompress to very many."""
MAX_FILES = 2**20
"""Entries of a folder, at most."""

# What Pillow raises for damaged files; OverflowError and MemoryError for false sizes.
_PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError),
    *(OverflowError, MemoryError, struct.error, zlib.error),
)


def visible(folder: Path) -> list[Path]:
    """Return the entries of ``folder``, sorted, without hidden ones, and those that macOS zips."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        if next(islice(entries, MAX_FILES, None), None) is not None:
            expected = f"have at most {MAX_FILES} entries, got more"
            raise ValueError(f"{quoted(folder)} must {expected}; use one .npy file, by np.save")
    names = (name for name in os.listdir(folder) if not name.startswith((".", "__MACOSX")))
    return sorted(folder / name for name in names)


def image_files(folder: Path) -> list[Path]:
    """Return the image files in ``folder``, sorted."""
    return [p for p in visible(folder) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]


def labelled_files(folders: Iterable[Path]) -> tuple[list[Path], Tensor]:
    """Return the image files of all ``folders``, and for each the number of its folder."""
    found = [(file, label) for label, folder in enumerate(folders) for file in image_files(folder)]
    return [file for file, _ in found], torch.tensor([label for _, label in found])


_GREY = ("1", "L", "LA", "La")
"""Pillow's modes without colour."""
_WITHOUT_COLOUR = "grey made three equal channels"


def read_images(
    files: list[Path], size: tuple[int, int] | None, grey: bool | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Return images of one size, uint8 of shape ``(N, channels, height, width)``, and conversions.

    They have one channel if ``grey`` is True, three if False; if None, three if any has colour.
    """
    done: Counter[str] = Counter()
    first = _read_image(files[0], size, grey, done)
    images = _empty_like(first, files)
    for i, file in enumerate(files):
        image = _read_image(file, size, grey, done) if i else first
        if image.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"images must have one size, got {tuple(first.shape[1:])} in {quoted(files[0])} "
                f"and {tuple(image.shape[1:])} in {quoted(file)}; give size=(height, width)"
            )
        if len(image) > images.shape[1]:  # the first with colour
            colour = _empty_like(image, files)
            colour[:i] = images[:i]
            images = colour
        images[i] = image
    if images.shape[1] == 1:
        del done[_WITHOUT_COLOUR]
    return images, tuple(
        f"{what} in {count} of {len(files)} images" for what, count in done.items()
    )


def _empty_like(image: Tensor, files: list[Path]) -> Tensor:
    """Return an uninitialised tensor for the images of all files, each of the shape of one."""
    if (needed := image.numel() * len(files)) > memory():
        raise ValueError(
            f"{len(files)} images like {quoted(files[0])} need {needed} bytes, more memory than "
            f"this machine has; give a smaller size="
        )
    return image.new_empty((len(files), *image.shape))


def _read_image(
    file: Path, size: tuple[int, int] | None, grey: bool | None, done: Counter[str]
) -> Tensor:
    from PIL import ExifTags, Image, ImageOps

    try:
        with opened(file, MAX_BYTES) as read, warnings.catch_warnings():
            # Pillow's own limit is higher, and it warns of images that are read.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(read, formats=_FORMATS) as found:
                _check_depth(found)
                if found.width * found.height > MAX_PIXELS:
                    size_found = f"{found.width} x {found.height}"
                    raise ValueError(
                        f"it has {size_found} pixels, more than {MAX_PIXELS}; scale it down"
                    )
                has_colour = _has_colour(found)
                # Loading a TIFF rotates it, and drops the tag.
                rotated = found.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
                image = found.convert("RGB" if (has_colour if grey is None else not grey) else "L")
                done.update(_conversions(found, has_colour, grey))
                if rotated:
                    ImageOps.exif_transpose(image, in_place=True)
                    done["rotated by its EXIF orientation"] += 1
    except (*_PILLOW_ERRORS, Image.DecompressionBombError) as error:
        expected = f"{quoted(file)} must be a readable 8-bit image"
        raise ValueError(f"{expected}: {reason(error)}") from error
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


def _check_depth(image: Image.Image) -> None:
    """Raise ValueError for more than 8 bits per channel, which Pillow would drop silently."""
    # For colour the mode does not say, but the arguments of the decoder do: RGB;16B, or for .ppm
    # files the largest value.
    is_deep = image.mode[0] in "IF"
    for *_, decoder in getattr(image, "tile", ()):
        match decoder:
            case (_, int(largest), *_) if largest > 255:
                is_deep = True
            case _:
                is_deep |= ";16" in str(decoder)
    if is_deep:
        raise ValueError(
            f"it has mode {image.mode} of more than 8 bits per channel; save it with 8, or save "
            f"all images as one .npy file and give its scale"
        )


def _conversions(image: Image.Image, has_colour: bool, grey: bool | None) -> Iterator[str]:
    """Yield descriptions of the conversions of an image."""
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
