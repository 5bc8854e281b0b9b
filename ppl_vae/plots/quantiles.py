"""What a latent space of two dimensions decodes to, at equal steps of the prior's mass."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from ppl_vae.errors import positive_int
from ppl_vae.plots.arrays import finite, number, some
from ppl_vae.plots.tiles import as_images, name_columns, name_rows, sheet_of, show


def quantile_grid(n: int) -> NDArray:
    r"""Return coordinates at equal steps of a standard normal's mass.

    z = Φ⁻¹((i + ½) / n), i = 0, ..., n - 1, along each of two dimensions, so that each point stands
    for 1/n² of the prior (Kingma & Welling 2014, arXiv 1312.6114, figure 4).

    Returns:
        Shape ``(n, n, 2)``, in the order in which they are seen: ``[0, 0]`` is top left, z_1 grows
        to the right (along the second index) and z_2 upwards.

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
    """Show what a two-dimensional latent space decodes to, on a grid of quantiles of the prior.

    Args:
        images_on_grid: E[x | z] at each point, values in [0, 1], shape ``(rows, columns, *image)``.
        coordinates: z at each point, shape ``(rows, columns, 2)``; :func:`quantile_grid`'s if not
            given. The axes carry z_1 and z_2 where z_1 is one value per column and z_2 one per row,
            and nothing otherwise: the grid of a prior that is no product is bent.
        shape: ``(H, W)`` or ``(C, H, W)`` of one image.
        ax: where to draw; the current Axes if not given.

    Raises:
        ValueError: if there are no images on a grid, or the coordinates do not suit them.
    """
    tiles = as_images("manifold", images_on_grid, shape, 2, "images_on_grid")
    rows, columns = tiles.shape[:2]
    if coordinates is None:
        z = _quantile_grid(rows, columns)
    else:
        z = finite("manifold", "coordinates", coordinates, 3)
        if z.shape != (rows, columns, 2):
            raise ValueError(
                f"manifold: coordinates must have shape {(rows, columns, 2)}, z_1 and z_2 of each "
                f"image, got {z.shape}"
            )
    sheet = sheet_of(tiles.reshape(-1, *tiles.shape[2:]), columns, gap=0)
    ax = show(sheet, ax)
    if np.allclose(z[..., 0], z[:1, :, 0]) and np.allclose(z[..., 1], z[:, :1, 1]):
        across, down = some(columns), some(rows)
        name_columns(ax, sheet.columns[across], [number(v) for v in z[0, across, 0]], "$z_1$")
        name_rows(ax, sheet.rows[down], [number(v) for v in z[down, 0, 1]])
        ax.set_ylabel("$z_2$")
    return ax


def _quantile_grid(rows: int, columns: int) -> NDArray:
    z_1, z_2 = (
        [NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)] for count in (columns, rows)
    )
    return np.stack(np.meshgrid(z_1, z_2[::-1]), axis=-1)
