"""Datasets of your own values: tensors, arrays, NumPy files, folders of images."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.arrays import read_arrays
from ppl_vae.data.checks import check_mask
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
    """Make a dataset of tensors: ``x`` of shape ``(N, *event)``, ``labels`` of shape ``(N,)``.

    Labels and the names of their ``classes`` are as in `Dataset`: -1, NaN, None and an empty string
    are no label.

    ``scale`` is the value that means 1.0. Left out, it is 255 for uint8, 1 for all others; for
    uint8 with nothing above 1 it must be given, since both are common there. A likelihood of counts
    takes integers as they are where it is left out.

    Images are ``(N, C, H, W)``, or ``(N, H, W)`` if grey. Those of shape ``(N, H, W, C)`` are
    recognised by their sizes, if the last is 1, 3 or 4 and the first is not, and brought into that
    order; ``conversions`` of the dataset says so. ``channels="last"`` or ``"first"`` says it where
    the sizes do not, as those of (3, 32, 3), which are an error without.

    ``mask``, boolean and of the shape of ``x``, is True where a value is observed. With
    ``missing="nan"`` NaN means that it is not; without, NaN is an error.

    Example:
        >>> from_tensor(torch.rand(100, 784))
        Dataset('tensor', 100 x (784,), torch.float32 / 1, no labels)
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"values must be a tensor, got {type(x).__name__}; see from_numpy")
    mask = _without_nan(x, mask, missing)
    if scale is None and x.dtype == torch.uint8 and x.numel() and x.max() <= 1:
        raise ValueError(
            f"scale must be given for uint8 values with nothing above 1, got None for {name!r}; "
            f"scale=1 if they are 0/1 or counts, scale=255 if they are 8-bit grey values"
        )
    conversions: tuple[str, ...] = ()
    if _channels_are_last(x.shape[1:], channels):
        conversions = (f"channels last, {tuple(x.shape[1:])}, made first",)
        x = x.movedim(-1, 1).contiguous()
        if mask is not None:
            check_mask(mask, x.movedim(1, -1))
            mask = mask.movedim(-1, 1).contiguous()
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
    """Make a dataset of arrays, which are copied; otherwise as `from_tensor`."""
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
) -> Dataset:
    """Read a ``.npy`` file (values) or a ``.npz`` file.

    That holds ``x``, the values, and if need be ``y``, labels, and ``mask``, booleans of the
    values' shape that are True where one is observed; ``from_file(path, x="data", y="target")``
    where they have other names, and other arrays beside them are then left alone. ``scale``,
    ``missing``, ``channels`` and ``classes`` are as in `from_tensor`.

    Raises FileNotFoundError, or ValueError for a damaged file, one without an array that is named,
    or, where none is named, one without ``x`` or with anything else.
    """
    path = path_of("", "path", path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"path must be an existing .npy or .npz file, got {quoted(path)}")
    given = {"x": x, "y": y, "mask": mask}
    named = {what: key for what, key in given.items() if key is not None}
    keys = {what: key or what for what, key in given.items()}
    if named and path.suffix == ".npy":
        came = ", ".join(f"{what}={quoted(key)}" for what, key in named.items())
        raise ValueError(
            f"{quoted(path)} is a .npy file, of one array without a name, got {came}; drop it, or "
            f"give a .npz file"
        )
    try:
        arrays, found = read_arrays(path, tuple(keys.values()))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"path must be a NumPy file without pickled objects, got {quoted(path)}, which cannot "
            f"be read: {reason(error)}; write it again with np.save or np.savez"
        ) from error
    has = reason(", ".join(found[:20])) or "no arrays"
    for what, key in {"x": keys["x"], **named}.items():
        if key not in arrays and named:
            raise ValueError(
                f"{quoted(path)} must have the array {quoted(key)}, given as {what}=, got {has}; "
                f"give one of those"
            )
    others = [key for key in found if key not in keys.values()]
    if not named and ("x" not in arrays or others):
        raise ValueError(
            f"{quoted(path)} must have the key x (values) and may have y (labels) and mask (True "
            f"where observed), and nothing else, got "
            f"{reason(', '.join((others or found)[:20])) or 'no keys'}; name "
            f"those of its arrays that are meant: x=, y="
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
    """Read a folder of 8-bit images. Subfolders, in sorted order, are classes if there are any.

    They have the folders' names. What becomes of images on the way (transparency and further frames
    dropped, a palette or CMYK made RGB, another size) is in ``conversions`` of the dataset.

    Args:
        path: the folder. Names that start with a dot and files of other kinds are passed over.
        size: resize to ``(height, width)``, or to a square; None if all images have one size.
        grey: shape ``(N, 1, height, width)`` if True, RGB, ``(N, 3, height, width)``, if False;
            None is grey if all images are, else RGB.
        classes: the names of the subfolders, in another order or with others; see `Dataset`.

    Raises FileNotFoundError where there is no image, ValueError for an image that cannot be read.
    """
    path = path_of("", "path", path).expanduser()
    grey = None if grey is None else flag("", "grey", grey)
    if size is not None:
        size = _height_and_width(size)
    folders, loose = [p for p in visible(path) if p.is_dir()], image_files(path)
    if folders and loose:
        raise ValueError(
            f"{quoted(path)} must hold either images or subfolders, got both "
            f"{quoted(loose[0].name)} and {quoted(folders[0].name)}; move the images into a "
            f"subfolder"
        )
    nested = next((p for folder in folders for p in visible(folder) if p.is_dir()), None)
    if nested is not None:
        raise ValueError(
            f"{quoted(path)} must hold images in subfolders, one for each class, got the folder "
            f"{quoted(nested.relative_to(path))}; move its images up, or give a folder of classes"
        )
    files, number = labelled_files(folders) if folders else (loose, None)
    if not files:
        raise FileNotFoundError(
            f"{quoted(path)} must hold images ({', '.join(IMAGE_SUFFIXES)}), in it or in its "
            f"subfolders, got none"
        )
    names = tuple(folder.name for folder in folders)
    labels = None if number is None else [names[n] for n in number.tolist()]
    images, conversions = read_images(files, size, grey)
    return Dataset(
        images,
        labels,
        path.name,
        scale=255,
        classes=classes or names or None,
        conversions=conversions,
    )


def _channels_are_last(event: Sequence[int], channels: str | None) -> bool:
    """Tell whether data are images (H, W, C), as is said, or else by their sizes."""
    if channels is None:
        if is_ambiguous(event):
            raise ValueError(
                f"x of shape (N, {', '.join(map(str, event))}) may have {event[0]} channels first "
                f"or {event[-1]} last; say which, first or last: channels=, or --data.channels"
            )
        return has_channels_last(event)
    if channels not in ("first", "last"):
        raise ValueError(f'channels must be "first", "last" or None, got {describe(channels)}')
    if len(event) != 3:
        raise ValueError(
            f"channels={channels!r} is of images of three dimensions, got items of shape "
            f"{tuple(event)}; leave it out (grey images (N, H, W) have one channel)"
        )
    return channels == "last"


def _height_and_width(size: object) -> tuple[int, int]:
    found = sizes("", "size", (size, size) if isinstance(size, Integral) else size)
    if len(found) != 2:
        raise ValueError(f"size must be (height, width), or one number for both, got {found}")
    return found[0], found[1]


def _without_nan(x: Tensor, mask: Tensor | None, missing: str | None) -> Tensor | None:
    """Return what is observed: where the mask is True and, if NaN is what is missing, not NaN."""
    if missing is None:
        return mask
    if missing != "nan":
        raise ValueError(f'missing must be "nan" or None, got {describe(missing)}')
    if not x.is_floating_point():
        raise TypeError(
            f'missing="nan" is of floating values, got {describe(x)}, which hold no NaN; leave it '
            f"out, or give mask="
        )
    if mask is None:
        return ~x.isnan()
    check_mask(mask, x)
    return mask.to(x.device) & ~x.isnan()
