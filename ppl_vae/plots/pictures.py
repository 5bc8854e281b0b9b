"""Images in rows and columns: data, samples, reconstructions, components."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from ppl_vae.plots.arrays import array, same_length
from ppl_vae.plots.tiles import as_images, columns_for, name_rows, sheet_of, show


def images(
    x: ArrayLike,
    *,
    columns: int | None = None,
    shape: tuple[int, ...] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Tile images in a grid, row by row.

    Args:
        x: values in [0, 1] (what is beyond, such as a draw from a normal likelihood, is shown as 0
            or 1), NaN where a pixel is missing (pale blue), shape ``(N, D)``, ``(N, H, W)`` or
            ``(N, C, H, W)`` with C 1 or 3.
        columns: images per row; about √N if not given.
        shape: ``(H, W)`` or ``(C, H, W)`` of one image; a square if x is flat and it is not given.
        ax: where to draw; the current Axes if not given.

    Raises:
        ValueError: if x is empty, or a datum is no image of that shape.
    """
    tiles = as_images("images", x, shape)
    return show(sheet_of(tiles, columns_for("images", columns, len(tiles))), ax)


def reconstructions(
    x: ArrayLike,
    reconstructed: ArrayLike,
    *,
    columns: int = 10,
    shape: tuple[int, ...] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show data in odd rows and their reconstructions right below, in even rows.

    With more than ``columns`` data only full rows are shown.

    Args:
        x: the data, as for :func:`images`.
        reconstructed: of the same shape.
        columns: data per row.
        shape: shape of one image.
        ax: where to draw; the current Axes if not given.

    Raises:
        ValueError: if the shapes differ, x is empty, or a datum is no image of that shape.
    """
    x = array("reconstructions", "x", x)
    reconstructed = array("reconstructions", "reconstructed", reconstructed)
    if x.shape != reconstructed.shape:
        raise ValueError(
            f"reconstructions: x has shape {x.shape} and reconstructed {reconstructed.shape}; "
            f"they must be the same"
        )
    pairs = np.stack([as_images("reconstructions", a, shape) for a in (x, reconstructed)], axis=1)
    columns = min(columns_for("reconstructions", columns, len(x)), len(x))
    full = len(x) // columns * columns
    # (row, column, which, H, W, C) -> (row, which, column, H, W, C)
    pairs = pairs[:full].reshape(-1, columns, *pairs.shape[1:]).swapaxes(1, 2)
    return show(sheet_of(pairs.reshape(-1, *pairs.shape[3:]), columns), ax)


def rows(
    x: ArrayLike,
    names: Sequence[str] | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show one row of images per class or mixture component.

    Args:
        x: values in [0, 1] as for :func:`images`, shape ``(R, C, D)``, ``(R, C, H, W)`` or
            ``(R, C, channels, H, W)``: C images of each of R classes.
        names: R names, written on the left.
        shape: ``(H, W)`` or ``(channels, H, W)`` of one image.
        ax: where to draw; the current Axes if not given.

    Raises:
        ValueError: if x is empty or holds no such images, or the names are not R.
    """
    tiles = as_images("rows", x, shape, leading=2)
    same_length("rows", len(tiles), "the rows", names=names)
    sheet = sheet_of(tiles.reshape(-1, *tiles.shape[2:]), tiles.shape[1])
    ax = show(sheet, ax)
    if names is not None:
        name_rows(ax, sheet.rows, [str(name) for name in names])
    return ax
