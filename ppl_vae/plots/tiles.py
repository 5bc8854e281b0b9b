"""Sheets of images: every picture made of images is drawn here."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from numpy.typing import ArrayLike, NDArray

from ppl_vae.errors import positive_int, sizes
from ppl_vae.event_shapes import same_event
from ppl_vae.plots.arrays import array
from ppl_vae.plots.axes import axes_of
from ppl_vae.plots.colours import MISSING


@dataclass(frozen=True)
class Sheet:
    """Images side by side.

    Args:
        pixels: shape ``(height, width, C)``, NaN where an image has a missing pixel.
        rows: the pixel coordinate of each row's centre.
        columns: the pixel coordinate of each column's centre.
    """

    pixels: NDArray
    rows: NDArray
    columns: NDArray


def as_images(
    owner: str, x: ArrayLike, shape: Sequence[int] | None, leading: int = 1, name: str = "x"
) -> NDArray:
    """Return images as ``(*leading, H, W, C)``.

    Raises:
        ValueError: if x is empty, infinite somewhere, or holds no images of that shape.
    """
    x = array(owner, name, x)
    lead, event = x.shape[:leading], x.shape[leading:]
    if np.isinf(x).any():
        raise ValueError(f"{owner}: {name} holds infinite values; images are of values in [0, 1]")
    wanted = sizes(owner, "shape", shape) if shape is not None else event
    if shape is None and len(event) == 1:
        side = math.isqrt(event[0])
        if side * side != event[0]:
            raise ValueError(
                f"{owner}: {name} has {event[0]} values per datum, no square image; give "
                f"shape=(H, W), or plot data that are no images otherwise"
            )
        wanted = (side, side)
    full = (1, *wanted) if len(wanted) == 2 else wanted
    fits = same_event(event, full)
    if not event or len(full) != 3 or full[0] not in (1, 3) or not fits:
        leads = ", ".join("NRCS"[i] for i in range(leading)) if leading == 1 else "R, C"
        raise ValueError(
            f"{owner}: {name} of shape {x.shape} holds no images of shape {wanted}; expected "
            f"({leads}, D), ({leads}, H, W) or ({leads}, channels, H, W) with 1 or 3 channels"
        )
    return np.moveaxis(x.reshape(*lead, *full), -3, -1)


def sheet_of(tiles: NDArray, columns: int, *, gap: int = 1, breaks: Collection[int] = ()) -> Sheet:
    """Lay tiles ``(N, H, W, C)`` out row by row on white.

    Args:
        tiles: the images.
        columns: images per row; what is missing in the last row stays white.
        gap: pixels between images and around them.
        breaks: the columns before which the gap is wider, by a third of an image.
    """
    count, height, width, channels = tiles.shape
    rows = math.ceil(count / columns)
    tops = gap + np.arange(rows) * (height + gap)
    wider = np.array([j in breaks for j in range(columns)]) * max(2, width // 3)
    lefts = gap + np.arange(columns) * (width + gap) + np.cumsum(wider)
    pixels = np.ones((tops[-1] + height + gap, lefts[-1] + width + gap, channels))
    for i, tile in enumerate(tiles):
        top, left = tops[i // columns], lefts[i % columns]
        pixels[top : top + height, left : left + width] = tile
    return Sheet(pixels, tops + (height - 1) / 2, lefts + (width - 1) / 2)


def columns_for(owner: str, columns: int | None, count: int) -> int:
    """Return the number of columns, about √N if it is not given."""
    if columns is None:
        return math.ceil(math.sqrt(count))
    return positive_int(owner, "columns", columns)


def show(sheet: Sheet, ax: Axes | None) -> Axes:
    """Draw the sheet with the pixels as squares and nothing around it."""
    ax = axes_of(ax)
    pixels = np.clip(sheet.pixels, 0, 1)
    if pixels.shape[-1] == 1:
        cmap = colormaps["gray"].with_extremes(bad=MISSING)
        ax.imshow(pixels[..., 0], cmap=cmap, vmin=0, vmax=1)
    else:
        missing = np.isnan(pixels).any(-1, keepdims=True)
        ax.imshow(np.where(missing, to_rgb(MISSING), pixels))
    ax.set_axis_off()
    return ax


def name_rows(ax: Axes, at: NDArray, names: Sequence[str]) -> None:
    """Write names on the left of rows of the sheet."""
    _bare_frame(ax)
    ax.set_yticks(at, names)


def name_columns(ax: Axes, at: NDArray, names: Sequence[str], label: str = "") -> None:
    """Write names below columns of the sheet."""
    _bare_frame(ax)
    ax.set_xticks(at, names)
    ax.set_xlabel(label)


def _bare_frame(ax: Axes) -> None:
    """Switch the axis on, for its labels alone."""
    if ax.axison:
        return
    ax.set_axis_on()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labelsize="small")
    ax.set_xticks([])
    ax.set_yticks([])
