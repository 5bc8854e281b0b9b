"""Pictures: arrays in, matplotlib Axes out. Saving and showing is the caller's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray


def images(
    x: ArrayLike,
    *,
    columns: int | None = None,
    shape: tuple[int, ...] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Tile images in a grid, row by row.

    Args:
        x: values in [0, 1], shape ``(N, D)``, ``(N, H, W)`` or ``(N, C, H, W)`` with C 1 or 3.
        columns: images per row; about √N if not given.
        shape: ``(H, W)`` or ``(C, H, W)`` of one image; a square if x is flat and it is not given.
        ax: where to draw; the current Axes if not given.

    Raises:
        ValueError: if a datum is no image of that shape.
    """
    tiles = _as_images(np.asarray(x, dtype=float), shape)
    count, height, width, channels = tiles.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    # One pixel between tiles; missing tiles and gaps are white.
    sheet = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1, channels))
    for i, tile in enumerate(tiles):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        sheet[top : top + height, left : left + width] = tile
    ax = ax or plt.gca()
    sheet = np.clip(sheet, 0, 1)
    ax.imshow(sheet[..., 0] if channels == 1 else sheet, cmap="gray", vmin=0, vmax=1)
    ax.set_axis_off()
    return ax


def reconstructions(
    x: ArrayLike,
    reconstructed: ArrayLike,
    *,
    columns: int = 10,
    shape: tuple[int, ...] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show data in odd rows and their reconstructions right below, in even rows.

    Args:
        x: the data, as for :func:`images`.
        reconstructed: of the same shape.
        columns: data per row.
        shape: shape of one image.
        ax: where to draw; the current Axes if not given.
    """
    x, reconstructed = np.asarray(x), np.asarray(reconstructed)
    if x.shape != reconstructed.shape:
        raise ValueError(
            f"reconstructions: x has shape {x.shape} and reconstructed {reconstructed.shape}; "
            f"they must be the same"
        )
    full = len(x) // columns * columns
    x, reconstructed = x[: full or None], reconstructed[: full or None]
    columns = min(columns, len(x))
    rows = zip(
        np.split(x, len(x) // columns), np.split(reconstructed, len(x) // columns), strict=True
    )
    return images(
        np.concatenate([part for row in rows for part in row]), columns=columns, shape=shape, ax=ax
    )


def latents(
    z: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    prior_draws: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Scatter latents by label, over draws from the prior in grey.

    More than two dimensions are projected on the first two principal components of z.

    Args:
        z: shape ``(N, latent_dim)``.
        labels: integers, shape ``(N,)``, for the colours.
        prior_draws: draws from p(z), shape ``(M, latent_dim)``.
        ax: where to draw; the current Axes if not given.
    """
    z = np.asarray(z, dtype=float)
    ax = ax or plt.gca()
    centre = np.zeros(z.shape[1])
    axes, names = np.eye(z.shape[1])[:, :2], ("$z_1$", "$z_2$")
    if z.shape[1] > 2:
        centre = z.mean(0)
        axes = np.linalg.svd(z - centre, full_matrices=False)[2][:2].T
        names = ("first principal component", "second")
    points = (z - centre) @ axes
    if points.shape[1] == 1:
        points = np.column_stack([points, np.zeros(len(points))])
    if prior_draws is not None:
        draws = (np.asarray(prior_draws, dtype=float) - centre) @ axes
        draws = draws if draws.shape[1] > 1 else np.column_stack([draws, np.zeros(len(draws))])
        ax.scatter(draws[:, 0], draws[:, 1], s=4, c="0.85", linewidths=0, label="draws of p(z)")
    labels = np.zeros(len(points), int) if labels is None else np.asarray(labels)
    for label in np.unique(labels):
        chosen = points[labels == label]
        colour = plt.get_cmap("tab10")(int(label) % 10)
        ax.scatter(chosen[:, 0], chosen[:, 1], s=6, color=colour, linewidths=0, label=str(label))
    if len(np.unique(labels)) > 1:
        ax.legend(fontsize="x-small", markerscale=2, loc="upper left", bbox_to_anchor=(1, 1))
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    return ax


def density(
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    *,
    masses: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 0.95),
    ax: Axes | None = None,
) -> Axes:
    """Shade the regions of highest density in the plane, darker where it is denser.

    Args:
        x: where along the first axis, equally spaced, shape ``(W,)``.
        y: where along the second axis, equally spaced, shape ``(H,)``.
        values: the density at ``(x[j], y[i])``, shape ``(H, W)``.
        masses: the share of what is on the grid that each contour encloses, ascending.
        ax: where to draw; the current Axes if not given.

    Raises:
        ValueError: if the shapes disagree, or a value is negative or not finite.
    """
    x, y, values = (np.asarray(a, dtype=float) for a in (x, y, values))
    if values.shape != (len(y), len(x)):
        raise ValueError(
            f"density: values must have shape (len(y), len(x)) = ({len(y)}, {len(x)}), "
            f"got {values.shape}"
        )
    if not np.isfinite(values).all() or values.min() < 0 or values.max() == 0:
        raise ValueError(
            "density: values must be finite, at least 0 and not all 0; give the density itself, "
            "not its logarithm"
        )
    ordered = np.sort(values, axis=None)[::-1]
    enclosed = np.cumsum(ordered) / ordered.sum()
    thresholds = {ordered[np.searchsorted(enclosed, mass)] for mass in masses}
    edges = sorted({*thresholds, ordered[0] * (1 + 1e-9)})
    ax = ax or plt.gca()
    if len(edges) > 1:
        shades = plt.get_cmap("Greys")(np.linspace(0.15, 0.6, len(edges) - 1))
        ax.contourf(x, y, values, levels=edges, colors=shades)
    return ax


def _as_images(x: NDArray, shape: tuple[int, ...] | None) -> NDArray:
    """Return images as ``(N, H, W, C)``."""
    event = shape or x.shape[1:]
    if shape is None and x.ndim == 2:
        side = math.isqrt(x.shape[1])
        if side * side != x.shape[1]:
            raise ValueError(
                f"images: {x.shape[1]} values per datum are no square image; give shape=(H, W), or "
                f"plot data that are no images otherwise"
            )
        event = (side, side)
    if len(event) == 2:
        event = (1, *event)
    if len(event) != 3 or event[0] not in (1, 3) or math.prod(event) != math.prod(x.shape[1:]):
        raise ValueError(
            f"images: x of shape {x.shape} holds no images of shape {shape or event}; expected "
            f"(N, D), (N, H, W) or (N, C, H, W) with C 1 or 3"
        )
    return x.reshape(-1, *event).transpose(0, 2, 3, 1)
