"""Paths through the latent space: from one datum to another, and along each dimension."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from ppl_vae.errors import positive_int
from ppl_vae.plots.arrays import finite, names_of, number, same_length, some
from ppl_vae.plots.tiles import as_images, name_columns, name_rows, sheet_of, show


def interpolation(
    x: ArrayLike,
    ends: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    names: Sequence[str] | None = None,
    shape: tuple[int, ...] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show what lies between two data in the latent space, one row per pair of data.

    Args:
        x: E[x | (1 - t) z_a + t z_b] at equal steps of t from 0 to 1 (or along any other path),
            values in [0, 1], shape ``(R, steps, *image)``.
        ends: the data themselves, each of shape ``(R, *image)``, shown on the left and right.
        names: R names, written on the left.
        shape: ``(H, W)`` or ``(C, H, W)`` of one image.
        ax: where to draw; the current Axes if not given.

    Raises:
        ValueError: if x is empty or holds no such images, or another argument does not suit it.
    """
    tiles = as_images("interpolation", x, shape, leading=2)
    count, steps = tiles.shape[:2]
    same_length("interpolation", count, "the rows", names=names)
    breaks: tuple[int, ...] = ()
    if ends is not None:
        same_length("interpolation", 2, "left and right", ends=ends)
        sides = [as_images("interpolation", end, shape)[:, None] for end in ends]
        for i, side in enumerate(sides):
            if side.shape != (count, 1, *tiles.shape[2:]):
                raise ValueError(
                    f"interpolation: ends[{i}] must be one image for each row, of the shape of "
                    f"those in x, got {np.shape(ends[i])} beside {np.shape(x)}"
                )
        tiles = np.concatenate([sides[0], tiles, sides[1]], axis=1)
        breaks = (1, steps + 1)
    sheet = sheet_of(tiles.reshape(-1, *tiles.shape[2:]), tiles.shape[1], breaks=breaks)
    ax = show(sheet, ax)
    at = sheet.columns[1:-1] if ends is not None else sheet.columns
    marks, written = [at[0]], ["$t = 0$"]
    if steps > 1:
        marks, written = [at[0], at[-1]], ["$t = 0$", "$t = 1$"]
    if ends is not None:
        marks = [sheet.columns[0], *marks, sheet.columns[-1]]
        written = ["datum", *written, "datum"]
    name_columns(ax, np.array(marks), written)
    if names is not None:
        name_rows(ax, sheet.rows, [str(name) for name in names])
    return ax


def traversals(
    x: ArrayLike,
    kl: ArrayLike | None = None,
    *,
    values: ArrayLike | None = None,
    most: int | None = None,
    names: Sequence[str] | None = None,
    shape: tuple[int, ...] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show what each latent dimension does, one row per dimension, by descending KL.

    Args:
        x: row d is E[x | z] as z_d runs over some values and the others stay, in [0, 1], shape
            ``(latent_dim, steps, *image)``.
        kl: KL of each dimension in nats, shape ``(latent_dim,)``, by which the rows are ordered and
            which is written beside them; without it they stay in order.
        values: what z_d runs over, shape ``(steps,)``, written below.
        most: show this many rows at most, those of largest KL.
        names: names of the dimensions; z_1, z_2, ... if not given.
        shape: ``(H, W)`` or ``(C, H, W)`` of one image.
        ax: where to draw; the current Axes if not given.

    Raises:
        ValueError: if x is empty or holds no such images, or another argument does not suit it or
            is not finite.
    """
    tiles = as_images("traversals", x, shape, leading=2)
    dims, steps = tiles.shape[:2]
    same_length("traversals", dims, "the rows", names=names)
    written = [str(n) for n in names] if names is not None else names_of(dims)
    order = np.arange(dims)
    if kl is not None:
        kl = finite("traversals", "kl", kl, 1)
        same_length("traversals", dims, "the rows", kl=kl)
        order = np.argsort(-kl, kind="stable")
        written = [f"{name}   {number(k, 2)} nats" for name, k in zip(written, kl, strict=True)]
    if most is not None:
        order = order[: positive_int("traversals", "most", most)]
    sheet = sheet_of(tiles[order].reshape(-1, *tiles.shape[2:]), steps)
    ax = show(sheet, ax)
    name_rows(ax, sheet.rows, [written[d] for d in order])
    if values is not None:
        values = finite("traversals", "values", values, 1)
        same_length("traversals", steps, "the columns", values=values)
        shown = some(steps)
        name_columns(ax, sheet.columns[shown], [number(v) for v in values[shown]], "$z_d$")
    return ax
