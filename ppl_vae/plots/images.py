"""Images in rows and columns: data, samples, reconstructions, classes, components."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from ppl_vae.plots.arguments import array, same_length, same_shape
from ppl_vae.plots.image_sheet import Sheet, as_images, column_count, name_rows, sheet_of_rows


def images(
    x: ArrayLike,
    *,
    columns: int | None = None,
    shape: tuple[int, ...] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Tile images in a grid, row by row.

    Args:
        x: pixels in [0, 1], shape ``(N, D)``, ``(N, H, W)`` or ``(N, C, H, W)`` with C 1 or 3.
            Values outside, such as draws from a normal likelihood, are clipped; NaN, a missing
            pixel, is pale blue.
        columns: images per row; ⌈√N⌉ if not given.
        shape: ``(H, W)`` or ``(C, H, W)`` of one image; a square if x is flat and it is not given.

    Raises:
        ValueError: if x is empty or is not made of images of that shape.
    """
    tiles = as_images("images", x, shape)
    return Sheet(tiles, column_count("images", columns, len(tiles))).show(ax)


def reconstructions(
    x: ArrayLike,
    reconstructed: ArrayLike,
    *,
    columns: int = 10,
    shape: tuple[int, ...] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show data in odd rows, and below each row its reconstructions.

    With more than ``columns`` data, an incomplete last row is left out.

    Args:
        x: the data, as for :func:`images`.
        reconstructed: of the same shape.
        columns: data per row.
        shape: of one image.

    Raises:
        ValueError: if the shapes differ, or x is empty or is not made of images of that shape.
    """
    x = array("reconstructions", "x", x)
    reconstructed = array("reconstructions", "reconstructed", reconstructed)
    same_shape("reconstructions", x=x, reconstructed=reconstructed)
    pairs = np.stack([as_images("reconstructions", a, shape) for a in (x, reconstructed)], axis=1)
    columns = min(column_count("reconstructions", columns, len(x)), len(x))
    full = len(x) // columns * columns
    # (row, column, which, H, W, C) -> (row, which, column, H, W, C)
    pairs = pairs[:full].reshape(-1, columns, *pairs.shape[1:]).swapaxes(1, 2)
    return Sheet(pairs.reshape(-1, *pairs.shape[3:]), columns).show(ax)


def rows(
    x: ArrayLike,
    names: Sequence[str] | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show one row of images per class or mixture component.

    Args:
        x: C images of each of R classes, as for :func:`images`, shape ``(R, C, D)``,
            ``(R, C, H, W)`` or ``(R, C, channels, H, W)``.
        names: R names, written on the left.
        shape: ``(H, W)`` or ``(channels, H, W)`` of one image.

    Raises:
        ValueError: if x is empty or is not made of images of that shape, or there are not R names.
    """
    tiles = as_images("rows", x, shape, leading=2)
    same_length("rows", len(tiles), "the rows", names=names)
    sheet = sheet_of_rows(tiles)
    ax = sheet.show(ax)
    if names is not None:
        name_rows(ax, sheet.rows, names)
    return ax
