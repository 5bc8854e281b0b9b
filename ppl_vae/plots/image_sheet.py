"""Sheets of images, as which all plots made of images are drawn."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from numpy.typing import ArrayLike, NDArray

from ppl_vae.errors import positive_int, sizes
from ppl_vae.event_shapes import same_event
from ppl_vae.plots.arguments import array, axes_of
from ppl_vae.plots.colours import MISSING


class Sheet:
    """Images ``(N, H, W, C)`` row by row on white.

    Args:
        tiles: the images.
        columns: images per row; the last row may have fewer.
        gap: pixels between images and around them.
        breaks: columns before which the gap is wider, by a third of an image.

    Attributes:
        pixels: shape ``(height, width, C)``, NaN where an image has a missing pixel.
        rows: the pixel coordinate of each row's centre.
        columns: the pixel coordinate of each column's centre.
    """

    def __init__(
        self, tiles: NDArray, columns: int, *, gap: int = 1, breaks: Collection[int] = ()
    ) -> None:
        count, height, width, channels = tiles.shape
        tops = gap + np.arange(math.ceil(count / columns)) * (height + gap)
        wider = np.array([j in breaks for j in range(columns)]) * max(2, width // 3)
        lefts = gap + np.arange(columns) * (width + gap) + np.cumsum(wider)
        self.pixels = np.ones((tops[-1] + height + gap, lefts[-1] + width + gap, channels))
        for i, tile in enumerate(tiles):
            top, left = tops[i // columns], lefts[i % columns]
            self.pixels[top : top + height, left : left + width] = tile
        self.rows = tops + (height - 1) / 2
        self.columns = lefts + (width - 1) / 2

    def show(self, ax: Axes | None) -> Axes:
        """Draw the sheet with square pixels and no frame."""
        ax = axes_of(ax)
        pixels = np.clip(self.pixels, 0, 1)
        if pixels.shape[-1] == 1:
            cmap = colormaps["gray"].with_extremes(bad=MISSING)
            ax.imshow(pixels[..., 0], cmap=cmap, vmin=0, vmax=1)
        else:
            missing = np.isnan(pixels).any(-1, keepdims=True)
            ax.imshow(np.where(missing, to_rgb(MISSING), pixels))
        ax.set_axis_off()
        return ax


def as_images(
    owner: str, x: ArrayLike, shape: Sequence[int] | None, leading: int = 1, name: str = "x"
) -> NDArray:
    """Return images as ``(*leading, H, W, C)``."""
    x = array(owner, name, x)
    lead, event = x.shape[:leading], x.shape[leading:]
    if np.isinf(x).any():
        raise ValueError(f"{owner}: {name} must be pixels in [0, 1], got infinite values")
    wanted = sizes(owner, "shape", shape) if shape is not None else event
    if shape is None and len(event) == 1:
        side = math.isqrt(event[0])
        if side * side != event[0]:
            raise ValueError(f"{owner}: {name} must be square images, or give shape=, got {event}")
        wanted = (side, side)
    full = (1, *wanted) if len(wanted) == 2 else wanted
    if shape is not None and len(wanted) not in (2, 3):
        raise ValueError(f"{owner}: shape must be (H, W) or (C, H, W), got {tuple(wanted)}")
    if not event or len(full) != 3 or full[0] not in (1, 3) or not same_event(event, full):
        leads = "N" if leading == 1 else "R, C"
        raise ValueError(
            f"{owner}: {name} must hold images of shape {wanted}, as ({leads}, D), ({leads}, H, W) "
            f"or ({leads}, 1 or 3 channels, H, W), got {x.shape}"
        )
    return np.moveaxis(x.reshape(*lead, *full), -3, -1)


def sheet_of_rows(tiles: NDArray, *, gap: int = 1, breaks: Collection[int] = ()) -> Sheet:
    """Return the sheet of images ``(rows, columns, H, W, C)``."""
    return Sheet(tiles.reshape(-1, *tiles.shape[2:]), tiles.shape[1], gap=gap, breaks=breaks)


def column_count(owner: str, columns: int | None, count: int) -> int:
    """Return the number of columns, ⌈√count⌉ if it is not given."""
    if columns is None:
        return math.ceil(math.sqrt(count))
    return positive_int(owner, "columns", columns)


def name_rows(ax: Axes, at: NDArray, names: Sequence[str]) -> None:
    """Write names to the left of rows of a sheet."""
    _show_labels_only(ax)
    ax.set_yticks(at, [str(name) for name in names])


def name_columns(ax: Axes, at: NDArray, names: Sequence[str], label: str = "") -> None:
    """Write names below columns of a sheet."""
    _show_labels_only(ax)
    ax.set_xticks(at, names)
    ax.set_xlabel(label)


def _show_labels_only(ax: Axes) -> None:
    if ax.axison:
        return
    ax.set_axis_on()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labelsize="small")
    ax.set_xticks([])
    ax.set_yticks([])
