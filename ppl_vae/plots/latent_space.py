"""The latent space: where the data are in it, and where the prior puts its mass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from ppl_vae.errors import listed, number
from ppl_vae.plots.arrays import array, finite, literal, same_length
from ppl_vae.plots.axes import axes_of
from ppl_vae.plots.colours import colour, marker

MASSES = (0.2, 0.4, 0.6, 0.8, 0.95)


def latents(
    z: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    classes: Sequence[str] | None = None,
    prior_draws: ArrayLike | None = None,
    prior_density: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Scatter latents by label, over draws from the prior in grey, or over its contours.

    More than two dimensions are projected on the first two principal components of z. After ten
    labels the colours repeat with other marks.

    Args:
        z: shape ``(N, latent_dim)``.
        labels: shape ``(N,)``, for the colours; -1, a datum without a label, is drawn in black.
        classes: the names of labels 0, 1, ...; the numbers if not given.
        prior_draws: draws from p(z), shape ``(M, latent_dim)``.
        prior_density: ``(x, y, values)``, the density p(z) on a grid of the plane as for
            :func:`density`, which draws it beneath; for two-dimensional z only.
        ax: where to draw; the current Axes if not given.

    Raises:
        ValueError: if z is empty or not finite, an argument does not suit it, or
            ``prior_density`` is given for other than two dimensions.
    """
    z = finite("latents", "z", z, 2)
    width = z.shape[1]
    if prior_density is not None and width != 2:
        raise ValueError(
            f"latents: prior_density is a density in the plane, and z has {width} dimensions: a "
            f"projection of z on principal components cannot show it; give prior_draws=, which are "
            f"projected as z is"
        )
    labels = np.zeros(len(z), int) if labels is None else np.asarray(labels)
    same_length("latents", len(z), "z", labels=labels)
    if labels.ndim != 1:
        raise ValueError(f"latents: labels must have shape ({len(z)},), got {labels.shape}")
    centre = np.zeros(width)
    axes, names = np.eye(width)[:, :2], ("$z_1$", "$z_2$")
    if width > 2:
        centre = z.mean(0)
        axes = np.linalg.svd(z - centre, full_matrices=False)[2][:2].T
        names = ("first principal component", "second principal component")
    ax = axes_of(ax)
    beneath: list[Artist] = []
    if prior_density is not None:
        same_length("latents", 3, "x, y and values", prior_density=prior_density)
        density(*prior_density, ax=ax)
        share = f"{100 * MASSES[0]:.0f} to {100 * MASSES[-1]:.0f} %"
        beneath.append(Patch(color="0.7", label=f"p(z), {share}\nof its mass"))
        ax.set_aspect("equal", adjustable="datalim")
    if prior_draws is not None:
        draws = finite("latents", "prior_draws", prior_draws, 2)
        if draws.shape[1] != width:
            raise ValueError(
                f"latents: z has {width} dimensions and prior_draws {draws.shape[1]}; they must be "
                f"draws of the same z"
            )
        draws = _in_plane(draws - centre, axes)
        beneath.append(
            ax.scatter(draws[:, 0], draws[:, 1], s=4, c="0.7", linewidths=0, label="draws of p(z)")
        )
    points, kinds = _in_plane(z - centre, axes), np.unique(labels)
    above = []
    for i, label in enumerate(kinds):
        chosen = points[labels == label]
        is_class = np.issubdtype(labels.dtype, np.integer)
        index = int(label) if is_class else i
        unlabelled = is_class and index == -1
        named = is_class and classes is not None and 0 <= index < len(classes)
        called = literal(classes[index]) if named and classes is not None else str(label)
        above.append(
            ax.scatter(
                chosen[:, 0],
                chosen[:, 1],
                s=7,
                color="black" if unlabelled else colour(index),
                marker=marker(index // 10) if index >= 0 else ".",
                linewidths=0,
                label="no label" if unlabelled else called,
            )
        )
    if len(kinds) > 1 or prior_density is not None:
        handles = [*beneath, *(above if len(kinds) > 1 else [])]
        legend = ax.legend(
            handles=handles, fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1)
        )
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_sizes([25])
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1] if width > 1 else "")
    if width == 1:
        ax.set_yticks([])
    return ax


def density(
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    *,
    masses: Sequence[float] = MASSES,
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
    x, y = finite("density", "x", x, 1), finite("density", "y", y, 1)
    values = array("density", "values", values)
    masses = [
        number("density", "each of masses", mass, above=0, most=1)
        for mass in listed("density", "masses", masses, "shares from 0 to 1")
    ]
    if values.shape != (len(y), len(x)):
        raise ValueError(
            f"density: values must have shape (len(y), len(x)) = ({len(y)}, {len(x)}), "
            f"got {values.shape}"
        )
    if min(values.shape) < 2:
        raise ValueError(f"density: a grid of {values.shape} has no contours; give 2 by 2 or more")
    if not np.isfinite(values).all() or values.min() < 0 or values.max() == 0:
        raise ValueError(
            "density: values must be finite, at least 0 and not all 0; give the density itself, "
            "not its logarithm"
        )
    ordered = np.sort(values, axis=None)[::-1]
    enclosed = np.cumsum(ordered) / ordered.sum()
    # Rounding may leave the sum of all values just below a mass of 1.
    last = len(ordered) - 1
    thresholds = {ordered[min(int(np.searchsorted(enclosed, m)), last)] for m in masses}
    edges = sorted({*thresholds, ordered[0] * (1 + 1e-9)})
    ax = axes_of(ax)
    if len(edges) > 1:
        shades = colormaps["Greys"](np.linspace(0.15, 0.6, len(edges) - 1))
        ax.contourf(x, y, values, levels=edges, colors=shades)
    return ax


def _in_plane(z: NDArray, axes: NDArray) -> NDArray:
    """Project on one or two axes; a second coordinate is 0 where there is one."""
    points = z @ axes
    return points if points.shape[1] > 1 else np.column_stack([points, np.zeros(len(points))])
