"""Datasets of your own values: tensors, arrays, NumPy files, folders of images."""

from __future__ import annotations

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

_KEYS = ("x", "y", "mask")
"""What an archive may hold."""


def from_tensor(
    x: Tensor,
    labels: Tensor | None = None,
    *,
    scale: int | float | None = None,
    mask: Tensor | None = None,
    missing: str | None = None,
    name: str = "tensor",
) -> Dataset:
    """Make a dataset of tensors: ``x`` of shape ``(N, *event)``, ``labels`` of shape ``(N,)``.

    ``scale`` is the value that means 1.0. Left out, it is 255 for uint8, 1 for bool and floating
    values; for uint8 with nothing above 1 it must be given, since both are common there.

    ``mask``, boolean and of the shape of ``x``, is True where a value is observed. With
    ``missing="nan"`` NaN means that it is not; without, NaN is an error.

    Example:
        >>> from_tensor(torch.rand(100, 784))
        Dataset('tensor', 100 x (784,), torch.float32 / 1, no labels)
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"values must be a tensor, got {type(x).__name__}; see from_numpy")
    mask = _without_nan(x, mask, missing)
    if scale is None:
        grey = x.dtype == torch.uint8
        if grey and x.numel() and x.max() <= 1:
            raise ValueError(
                f"scale must be given for uint8 values with nothing above 1, got None for "
                f"{name!r}; scale=1 if they are 0/1, scale=255 if they are 8-bit grey values"
            )
        scale = 255.0 if grey else 1.0
    values = x.to(torch.uint8) if x.dtype == torch.bool else x
    return Dataset(values, labels, name, scale=scale, mask=mask)


def from_numpy(
    x: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    scale: int | float | None = None,
    mask: np.ndarray | None = None,
    missing: str | None = None,
    name: str = "array",
) -> Dataset:
    """Make a dataset of arrays, which are copied; otherwise as `from_tensor`."""
    target = None if labels is None else _as_tensor("labels", labels)
    seen = None if mask is None else _as_tensor("mask", mask)
    return from_tensor(
        _as_tensor("x", x), target, scale=scale, mask=seen, missing=missing, name=name
    )


def from_file(
    path: str | Path, *, scale: int | float | None = None, missing: str | None = None
) -> Dataset:
    """Read a ``.npy`` file (values) or a ``.npz`` file.

    That holds ``x``, the values, and if need be ``y``, labels, and ``mask``, booleans of the
    values' shape that are True where one is observed. ``scale`` and ``missing`` are as in
    `from_tensor`.

    Raises FileNotFoundError, or ValueError for a damaged file, one without ``x``, or one that holds
    anything else.
    """
    path = path_of("", "path", path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"path must be an existing .npy or .npz file, got {quoted(path)}")
    try:
        arrays, keys = read_arrays(path, _KEYS)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"path must be a NumPy file without pickled objects, got {quoted(path)}, which cannot "
            f"be read: {reason(error)}; write it again with np.save or np.savez"
        ) from error
    others = [key for key in keys if key not in _KEYS]
    if "x" not in arrays or others:
        raise ValueError(
            f"{quoted(path)} must have the key x (values) and may have y (labels) and mask (True "
            f"where observed), and nothing else, got "
            f"{reason(', '.join((others or keys)[:20])) or 'no keys'}; write it with "
            f"np.savez(path, x=...)"
        )
    return from_numpy(
        arrays["x"],
        arrays.get("y"),
        scale=scale,
        mask=arrays.get("mask"),
        missing=missing,
        name=path.stem,
    )


def from_folder(
    path: str | Path, *, size: int | tuple[int, int] | None = None, grey: bool = True
) -> Dataset:
    """Read a folder of 8-bit images. Subfolders, in sorted order, are classes if there are any.

    Args:
        path: the folder. Names that start with a dot and files of other kinds are passed over;
            transparency is ignored.
        size: resize to ``(height, width)``, or to a square; None if all images have one size.
        grey: shape ``(N, 1, height, width)`` if True, else RGB, ``(N, 3, height, width)``.

    Raises FileNotFoundError where there is no image, ValueError for an image that cannot be read.
    """
    path, grey = path_of("", "path", path).expanduser(), flag("", "grey", grey)
    if size is not None:
        size = _height_and_width(size)
    classes, loose = [p for p in visible(path) if p.is_dir()], image_files(path)
    if classes and loose:
        raise ValueError(
            f"{quoted(path)} must hold either images or subfolders, got both "
            f"{quoted(loose[0].name)} and {quoted(classes[0].name)}; move the images into a "
            f"subfolder"
        )
    nested = next((p for folder in classes for p in visible(folder) if p.is_dir()), None)
    if nested is not None:
        raise ValueError(
            f"{quoted(path)} must hold images in subfolders, one for each class, got the folder "
            f"{quoted(nested.relative_to(path))}; move its images up, or give a folder of classes"
        )
    files, labels = labelled_files(classes) if classes else (loose, None)
    if not files:
        raise FileNotFoundError(
            f"{quoted(path)} must hold images ({', '.join(IMAGE_SUFFIXES)}), in it or in its "
            f"subfolders, got none"
        )
    return Dataset(read_images(files, size, grey), labels, path.name, scale=255)


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


def _as_tensor(argument: str, array: np.ndarray) -> Tensor:
    if isinstance(array, np.ma.MaskedArray):  # of which torch takes what lies under the mask
        raise TypeError(
            f"{argument} must be an array without a mask of its own, got a masked one; give "
            f"{argument}.data, and mask=~numpy.ma.getmaskarray(x) for the values"
        )
    try:
        return torch.tensor(array)
    except (TypeError, ValueError) as error:  # objects, strings, foreign byte order
        raise TypeError(
            f"{argument} must be a numeric array, got dtype {array.dtype}; convert it with .astype"
        ) from error
