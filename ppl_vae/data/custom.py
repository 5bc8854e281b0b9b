"""Datasets from tensors, arrays, NumPy files and folders of images."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.arrays import map_array, read_arrays
from ppl_vae.data.checks import checked_mask
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.images import IMAGE_SUFFIXES, image_files, labelled_files, read_images, visible
from ppl_vae.errors import describe, flag, path_of, quoted, reason, sizes
from ppl_vae.event_shapes import has_channels_last, is_ambiguous
from ppl_vae.tensors import as_tensor


def from_tensor(
    x: Tensor,
    labels: Tensor | np.ndarray | Sequence[object] | None = None,
    *,
    scale: int | float | None = None,
    mask: Tensor | None = None,
    missing: str | None = None,
    channels: str | None = None,
    name: str = "tensor",
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Make a dataset of tensors; arguments are as in `Dataset`, except for those below.

    Args:
        x: shape ``(N, *event)``; images ``(N, C, H, W)``, or ``(N, H, W)`` if grey. Images of shape
            ``(N, H, W, C)`` are recognised if the last size is 1, 3 or 4 and the first is not, and
            permuted, which ``conversions`` records.
        scale: must be given for uint8 values of which none is above 1: both 1 and 255 are common.
        missing: ``"nan"`` if NaN means missing; otherwise NaN is an error.
        channels: ``"first"`` or ``"last"``, for images whose sizes do not tell, such as
            (3, 32, 3), which is an error without it.

    Example:
        >>> from_tensor(torch.rand(100, 784))
        Dataset('tensor', 100 x (784,), torch.float32 / 1, no labels)
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"values must be a tensor, got {type(x).__name__}; see from_numpy")
    if mask is not None:
        mask = checked_mask(mask, x)
    if missing is not None:
        mask = _without_nan(x, mask, missing)
    _check_uint8(x, scale, name)
    conversions: tuple[str, ...] = ()
    if _channels_are_last(x.shape[1:], channels):
        conversions = (f"channels last, {tuple(x.shape[1:])}, made first",)
        x = x.movedim(-1, 1).contiguous()
        mask = None if mask is None else mask.movedim(-1, 1).contiguous()
    return Dataset(
        x, labels, name, scale=scale, mask=mask, classes=classes, conversions=conversions
    )


def from_numpy(
    x: np.ndarray,
    labels: Tensor | np.ndarray | Sequence[object] | None = None,
    *,
    scale: int | float | None = None,
    mask: np.ndarray | None = None,
    missing: str | None = None,
    channels: str | None = None,
    name: str = "array",
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Make a dataset of copies of arrays; see `from_tensor`."""
    return from_tensor(
        as_tensor("x", x),
        labels,
        scale=scale,
        mask=None if mask is None else as_tensor("mask", mask),
        missing=missing,
        channels=channels,
        name=name,
        classes=classes,
    )


def from_file(
    path: str | Path,
    *,
    scale: int | float | None = None,
    missing: str | None = None,
    channels: str | None = None,
    x: str | None = None,
    y: str | None = None,
    mask: str | None = None,
    classes: Sequence[str] | None = None,
    memory_map: bool = False,
) -> Dataset:
    """Read a ``.npy`` file (values) or a ``.npz`` file (values, and perhaps labels and a mask).

    Args:
        path: the file.
        scale: as in `from_tensor`, and so are ``missing``, ``channels`` and ``classes``.
        x: the name of the values in a ``.npz`` file, by default x.
        y: of the labels, by default y, if there are any.
        mask: of the mask, by default mask, if there is one. If no name is given, there must be no
            other arrays.
        memory_map: leave the values of a ``.npy`` file on the disk, and read them as they are used:
            for a file larger than the memory. It must be in C order and this machine's byte order,
            without unsigned integers of more than 8 bits; images have their channels first. Slices
            and `Dataset.split` are views; subsets and conversions are copies in memory. All values
            are checked now, in parts.

    Raises FileNotFoundError, or ValueError for a damaged file or other arrays than expected.
    """
    mapped = flag("", "memory_map", memory_map)
    path = path_of("", "path", path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"path must be an existing .npy or .npz file, got {quoted(path)}")
    given = {"x": x, "y": y, "mask": mask}
    named = {argument: key for argument, key in given.items() if key is not None}
    keys = {argument: key or argument for argument, key in given.items()}
    if named and path.suffix.lower() == ".npy":
        got = ", ".join(f"{argument}={quoted(key)}" for argument, key in named.items())
        raise ValueError(
            f"{quoted(path)} is a .npy file, whose array has no name, got {got}; drop it"
        )
    if mapped and path.suffix.lower() != ".npy":
        raise ValueError(
            f"memory_map=True needs a .npy file, got {quoted(path)}; write the values alone, with "
            f"np.save"
        )
    if mapped and missing is not None:
        raise ValueError(
            f"missing={missing!r} cannot be given with memory_map=True, as its mask would be held "
            f"in memory; leave memory_map out"
        )
    try:
        if mapped:
            arrays, found = {"x": map_array(path)}, ["x"]
        else:
            arrays, found = read_arrays(path, tuple(keys.values()))
    except (OSError, ValueError) as error:
        how = "np.save(path, np.ascontiguousarray(x, dtype))" if mapped else "np.save"
        raise ValueError(
            f"path must be a NumPy file without pickled objects, got {quoted(path)}, which cannot "
            f"be read: {reason(error)}; save it again, with {how}"
        ) from error
    if mapped:
        return _of_map(arrays["x"], scale, channels, path.stem, classes)
    for argument, key in {"x": keys["x"], **named}.items():
        if key not in arrays and named:
            expected = f"the array {quoted(key)}, given as {argument}="
            raise ValueError(f"{quoted(path)} must have {expected}, got {_names(found)}")
    others = [key for key in found if key not in keys.values()]
    if not named and ("x" not in arrays or others):
        raise ValueError(
            f"{quoted(path)} must have the array x (values), may have y (labels) and mask, and no "
            f"others, got {_names(others or found)}; give the names of its arrays: x=, y="
        )
    return from_numpy(
        arrays[keys["x"]],
        arrays.get(keys["y"]),
        scale=scale,
        mask=arrays.get(keys["mask"]),
        missing=missing,
        channels=channels,
        name=path.stem,
        classes=classes,
    )


def from_folder(
    path: str | Path,
    *,
    size: int | Sequence[int] | None = None,
    grey: bool | None = None,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Read a folder of 8-bit images. Its subfolders, if any, are the classes, sorted by name.

    Conversions of the images (transparency and further frames dropped, palette or CMYK to RGB,
    resizing) are in ``conversions`` of the dataset.

    Args:
        path: the folder. Hidden files and files of other kinds are ignored.
        size: resize to ``(height, width)``, or to a square; None if all images have one size.
        grey: shape ``(N, 1, height, width)`` if True, RGB, ``(N, 3, height, width)``, if False; if
            None, grey if all images are, else RGB.
        classes: the names of the subfolders in another order, perhaps with others; see `Dataset`.

    Raises FileNotFoundError if there is no image, ValueError for an image that cannot be read.
    """
    path = path_of("", "path", path).expanduser()
    grey = None if grey is None else flag("", "grey", grey)
    if size is not None:
        size = _height_and_width(size)
    folders, loose = [p for p in visible(path) if p.is_dir()], image_files(path)
    if folders and loose:
        raise ValueError(
            f"{quoted(path)} must hold either images or subfolders, got both, "
            f"{quoted(loose[0].name)} and {quoted(folders[0].name)}; move the images into one"
        )
    for nested in (p for folder in folders for p in visible(folder) if p.is_dir()):
        raise ValueError(
            f"{quoted(path)} must hold one subfolder of images per class, got the folder "
            f"{quoted(nested.relative_to(path))}; move its images up"
        )
    files, number = labelled_files(folders) if folders else (loose, None)
    if not files:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise FileNotFoundError(f"{quoted(path)} must hold images ({kinds}), got none")
    names = tuple(folder.name for folder in folders)
    labels = None if number is None else [names[n] for n in number.tolist()]
    images, conversions = read_images(files, size, grey)
    classes = classes or names or None
    return Dataset(images, labels, path.name, scale=255, classes=classes, conversions=conversions)


def _of_map(
    values: np.ndarray,
    scale: int | float | None,
    channels: str | None,
    name: str,
    classes: Sequence[str] | None,
) -> Dataset:
    """Make a dataset of a memory-mapped array, without a copy."""
    x = torch.from_numpy(values)
    if _channels_are_last(x.shape[1:], channels):
        raise ValueError(
            f"{name!r} holds images of shape {tuple(x.shape[1:])}, channels last, which "
            f"memory_map=True cannot make first; save them as (N, C, H, W)"
        )
    _check_uint8(x, scale, name)
    options: dict[str, Any] = {"scale": scale, "classes": classes}
    options["_mapped"] = x.untyped_storage().data_ptr()
    return Dataset(x, None, name, **options)


def _check_uint8(x: Tensor, scale: object, name: str) -> None:
    """Raise ValueError for uint8 values that may be of scale 1 or 255."""
    if scale is None and x.dtype == torch.uint8 and x.numel() and x.max() <= 1:
        raise ValueError(
            f"scale must be given for uint8 values with nothing above 1, got None for {name!r}; "
            f"give 1 for 0/1 or counts, 255 for 8-bit grey values"
        )


def _names(keys: Sequence[str]) -> str:
    return reason(", ".join(keys[:20])) or "no arrays"


def _channels_are_last(event: Sequence[int], channels: str | None) -> bool:
    """Return whether items are images (H, W, C), by ``channels`` or else by their sizes."""
    if channels is None:
        if is_ambiguous(event):
            raise ValueError(
                f"x of shape (N, {', '.join(map(str, event))}) may have {event[0]} channels first "
                f"or {event[-1]} last; give channels= (--data.channels), first or last"
            )
        return has_channels_last(event)
    if channels not in ("first", "last"):
        raise ValueError(f'channels must be "first", "last" or None, got {describe(channels)}')
    if len(event) != 3:
        got = f"got items of shape {tuple(event)}; leave it out"
        raise ValueError(f"channels={channels!r} needs images of three dimensions, {got}")
    return channels == "last"


def _height_and_width(size: object) -> tuple[int, int]:
    found = sizes("", "size", (size, size) if isinstance(size, Integral) else size)
    if len(found) != 2:
        raise ValueError(f"size must be (height, width), or one number for both, got {found}")
    return found[0], found[1]


def _without_nan(x: Tensor, mask: Tensor | None, missing: str) -> Tensor:
    """Return the mask, False also at NaN."""
    if missing != "nan":
        raise ValueError(f'missing must be "nan" or None, got {describe(missing)}')
    if not x.is_floating_point():
        raise TypeError(f'missing="nan" needs floating-point values, got {describe(x)}; give mask=')
    return ~x.isnan() if mask is None else mask & ~x.isnan()
