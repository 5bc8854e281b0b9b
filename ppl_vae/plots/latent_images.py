"""Images decoded from the latent space: along a path, along each dimension, on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from ppl_vae.errors import positive_int
from ppl_vae.plots.arguments import finite, same_length
from ppl_vae.plots.image_sheet import as_images, name_columns, name_rows, sheet_of_rows
from ppl_vae.plots.text import dimension_names, number, numbers, tick_indices


def interpolation(
    x: ArrayLike,
    ends: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    names: Sequence[str] | None = None,
    shape: tuple[int, ...] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show interpolations in the latent space, one row per pair of data.

    Args:
        x: E[x | (1 - t) z_a + t z_b] at equal steps of t from 0 to 1 (or along any other path),
            pixels in [0, 1], shape ``(R, steps, *image)``.
        ends: the two data, each of shape ``(R, *image)``, shown on the left and right.
        names: R names, written on the left.
        shape: ``(H, W)`` or ``(C, H, W)`` of one image.

    Raises:
        ValueError: if x is empty or is not made of images of that shape, or another argument is
            incompatible with it.
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
                    f"interpolation: ends[{i}] must be an image for each row of x, of shape "
                    f"{np.shape(x)}, got {np.shape(ends[i])}"
                )
        tiles = np.concatenate([sides[0], tiles, sides[1]], axis=1)
        breaks = (1, steps + 1)
    sheet = sheet_of_rows(tiles, breaks=breaks)
    ax = sheet.show(ax)
    at = sheet.columns[1:-1] if ends is not None else sheet.columns
    labels = {at[0]: "$t = 0$"}
    if steps > 1:
        labels[at[-1]] = "$t = 1$"
    if ends is not None:
        labels = {sheet.columns[0]: "datum", **labels, sheet.columns[-1]: "datum"}
    name_columns(ax, np.array(list(labels)), list(labels.values()))
    if names is not None:
        name_rows(ax, sheet.rows, names)
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
    """Show latent traversals, one row per dimension, by descending KL.

    Args:
        x: row d is E[x | z] as z_d varies and the other dimensions are fixed, pixels in [0, 1],
            shape ``(latent_dim, steps, *image)``.
        kl: KL of each dimension in nats, shape ``(latent_dim,)``, by which rows are sorted and
            which is written beside them; without it rows keep their order.
        values: the values of z_d, shape ``(steps,)``, written below.
        most: show at most so many rows, those of largest KL.
        names: of the dimensions; z_1, z_2, ... if not given.
        shape: ``(H, W)`` or ``(C, H, W)`` of one image.

    Raises:
        ValueError: if x is empty or is not made of images of that shape, or another argument is
            incompatible with it or not finite.
    """
    tiles = as_images("traversals", x, shape, leading=2)
    dims, steps = tiles.shape[:2]
    same_length("traversals", dims, "the rows", names=names)
    written = dimension_names(dims, names)
    order = np.arange(dims)
    if kl is not None:
        kl = finite("traversals", "kl", kl, 1)
        same_length("traversals", dims, "the rows", kl=kl)
        order = np.argsort(-kl, kind="stable")
        written = [f"{name}   {number(k, 2)} nats" for name, k in zip(written, kl, strict=True)]
    if most is not None:
        order = order[: positive_int("traversals", "most", most)]
    sheet = sheet_of_rows(tiles[order])
    ax = sheet.show(ax)
    name_rows(ax, sheet.rows, [written[d] for d in order])
    if values is not None:
        values = finite("traversals", "values", values, 1)
        same_length("traversals", steps, "the columns", values=values)
        shown = tick_indices(steps)
        name_columns(ax, sheet.columns[shown], numbers(values[shown]), "$z_d$")
    return ax


def quantile_grid(n: int) -> NDArray:
    r"""Return a grid of quantiles of the standard normal in the plane.

    z = Φ⁻¹((i + ½) / n), i = 0, ..., n - 1, along each of two dimensions, so that each point stands
    for 1/n² of the prior's mass (Kingma & Welling 2014, arXiv 1312.6114, figure 4).

    Returns:
        Shape ``(n, n, 2)``, as on the page: ``[0, 0]`` is top left, z_1 grows to the right (with
        the second index) and z_2 upwards.

    Example:
        >>> quantile_grid(2).round(2).tolist()
        [[[-0.67, 0.67], [0.67, 0.67]], [[-0.67, -0.67], [0.67, -0.67]]]
    """
    n = positive_int("quantile_grid", "n", n)
    return _quantile_grid(n, n)


def manifold(
    images_on_grid: ArrayLike,
    coordinates: ArrayLike | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show images decoded from a two-dimensional latent space, on a grid of the prior's quantiles.

    Args:
        images_on_grid: E[x | z] at each point, pixels in [0, 1], shape ``(rows, columns, *image)``.
        coordinates: z at each point, shape ``(rows, columns, 2)``; those of :func:`quantile_grid`
            if not given. The axes are labelled only if z_1 depends on the column alone and z_2 on
            the row alone, as under a prior that is a product.
        shape: ``(H, W)`` or ``(C, H, W)`` of one image.

    Raises:
        ValueError: if there are no images on a grid, or the coordinates have another shape.
    """
    tiles = as_images("manifold", images_on_grid, shape, 2, "images_on_grid")
    rows, columns = tiles.shape[:2]
    if coordinates is None:
        z = _quantile_grid(rows, columns)
    else:
        z = finite("manifold", "coordinates", coordinates, 3)
        if z.shape != (rows, columns, 2):
            shape = (rows, columns, 2)
            raise ValueError(f"manifold: coordinates must have shape {shape}, got {z.shape}")
    sheet = sheet_of_rows(tiles, gap=0)
    ax = sheet.show(ax)
    if np.allclose(z[..., 0], z[:1, :, 0]) and np.allclose(z[..., 1], z[:, :1, 1]):
        across, down = tick_indices(columns), tick_indices(rows)
        name_columns(ax, sheet.columns[across], numbers(z[0, across, 0]), "$z_1$")
        name_rows(ax, sheet.rows[down], numbers(z[down, 0, 1]))
        ax.set_ylabel("$z_2$")
    return ax


def _quantile_grid(rows: int, columns: int) -> NDArray:
    z_1, z_2 = (
        [NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)] for count in (columns, rows)
    )
    return np.stack(np.meshgrid(z_1, z_2[::-1]), axis=-1)
