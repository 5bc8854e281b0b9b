"""The latent space: latents of data, and the density of the prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from ppl_vae.errors import number, sequence
from ppl_vae.plots.arguments import array, axes_of, finite, same_length
from ppl_vae.plots.colours import colour, marker
from ppl_vae.plots.text import legend_outside, literal

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
    """Scatter latents by label, over draws from the prior or its density in grey.

    More than two dimensions are projected on the first two principal components of z. After ten
    labels the colours repeat with other markers.

    Args:
        z: shape ``(N, latent_dim)``.
        labels: shape ``(N,)``, for the colours; -1, NaN or None, unlabelled, is black.
        classes: names of the labels 0, 1, ...; the numbers if not given.
        prior_draws: draws from p(z), shape ``(M, latent_dim)``.
        prior_density: ``(x, y, values)``, p(z) on a grid, the arguments of :func:`density`; for
            two-dimensional z only.

    Raises:
        ValueError: if z is empty or not finite, an argument is incompatible with it, or
            ``prior_density`` is given and z does not have two dimensions.
    """
    z = finite("latents", "z", z, 2)
    width = z.shape[1]
    if prior_density is not None and width != 2:
        raise ValueError(
            f"latents: prior_density needs z of two dimensions, got {width}; give prior_draws= "
            f"instead"
        )
    labels = np.zeros(len(z), int) if labels is None else np.asarray(labels)
    same_length("latents", len(z), "z", labels=labels)
    if labels.ndim != 1:
        raise ValueError(f"latents: labels must have shape ({len(z)},), got {labels.shape}")
    labels = _with_none(labels)
    if classes is not None and labels.dtype.kind not in "iu":
        raise ValueError(
            f"latents: classes are the names of the labels 0, 1, ..., got labels such as "
            f"{next(label for label in labels.tolist() if label is not None)!r}; leave classes out"
        )
    centre = np.zeros(width)
    axes, names = np.eye(width)[:, :2], ("$z_1$", "$z_2$")
    if width > 2:
        centre = z.mean(0)
        axes = np.linalg.svd(z - centre, full_matrices=False)[2][:2].T
        names = ("first principal component", "second principal component")
    ax = axes_of(ax)
    background: list[Artist] = []
    if prior_density is not None:
        same_length("latents", 3, "x, y and values", prior_density=prior_density)
        density(*prior_density, ax=ax)
        share = f"{100 * MASSES[0]:.0f} to {100 * MASSES[-1]:.0f} %"
        background.append(Patch(color="0.7", label=f"p(z), {share}\nof its mass"))
        ax.set_aspect("equal", adjustable="datalim")
    if prior_draws is not None:
        draws = finite("latents", "prior_draws", prior_draws, 2)
        if draws.shape[1] != width:
            raise ValueError(
                f"latents: prior_draws must have {width} dimensions, as z, got {draws.shape[1]}"
            )
        x, y = _in_plane(draws - centre, axes).T
        background.append(ax.scatter(x, y, s=4, c="0.7", linewidths=0, label="draws of p(z)"))
    absent = np.array([label is None for label in labels])
    points, distinct = _in_plane(z - centre, axes), np.unique(labels[~absent])
    is_class = np.issubdtype(labels.dtype, np.integer)
    scatters = []
    for i, label in enumerate(distinct):
        index = int(label) if is_class else i
        name, ink, mark = str(label), colour(index), marker(index // 10) if index >= 0 else "."
        if is_class and index == -1:
            name, ink = "no label", "black"
        elif is_class and classes is not None and 0 <= index < len(classes):
            name = literal(classes[index])
        x, y = points[labels == label].T
        scatters.append(ax.scatter(x, y, s=7, color=ink, marker=mark, linewidths=0, label=name))
    if absent.any():
        x, y = points[absent].T
        scatters.append(ax.scatter(x, y, s=7, color="black", marker=".", label="no label"))
    if len(scatters) > 1 or prior_density is not None:
        handles = [*background, *(scatters if len(scatters) > 1 else [])]
        for handle in legend_outside(ax, handles=handles, fontsize="x-small").legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_sizes([25])
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1] if width > 1 else "")
    if width == 1:
        ax.set_yticks([])
    return ax


def _with_none(labels: NDArray) -> NDArray:
    """Return whole numbers as integers, -1 for NaN and None; other labels with None for these."""
    values = labels.tolist()
    absent = [value is None or value != value for value in values]
    known = [value for value, none in zip(values, absent, strict=True) if not none]
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in known)
    if numbers and all(abs(v) < 2**53 and float(v).is_integer() for v in known):
        both = zip(values, absent, strict=True)
        return np.array([-1 if none else value for value, none in both], int)
    if not any(absent):
        return labels
    found = np.array(values, object)
    found[absent] = None
    return found


def density(
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    *,
    masses: Sequence[float] = MASSES,
    ax: Axes | None = None,
) -> Axes:
    """Shade the highest-density regions of a density in the plane.

    Args:
        x: equally spaced coordinates on the first axis, shape ``(W,)``.
        y: equally spaced coordinates on the second axis, shape ``(H,)``.
        values: the density at ``(x[j], y[i])``, shape ``(H, W)``; a constant factor is irrelevant.
        masses: the share of the mass on the grid that each contour encloses.

    Raises:
        ValueError: if the shapes disagree, or a value is negative or not finite.
    """
    x, y = finite("density", "x", x, 1), finite("density", "y", y, 1)
    values = array("density", "values", values)
    masses = [
        number("density", "each of masses", mass, above=0, most=1)
        for mass in sequence("density", "masses", masses, "shares from 0 to 1")
    ]
    if values.shape != (len(y), len(x)):
        shape = f"(len(y), len(x)) = ({len(y)}, {len(x)})"
        raise ValueError(f"density: values must have shape {shape}, got {values.shape}")
    if min(values.shape) < 2:
        raise ValueError(f"density: values must be a grid of 2 by 2 or more, got {values.shape}")
    if not np.isfinite(values).all() or values.min() < 0 or values.max() == 0:
        raise ValueError(
            "density: values must be finite, at least 0 and not all 0; give the density, not its "
            "logarithm"
        )
    ordered = np.sort(values, axis=None)[::-1]
    enclosed = np.cumsum(ordered) / ordered.sum()
    # The last cumulative sum may be just below a mass of 1, by rounding.
    last = len(ordered) - 1
    thresholds = {ordered[min(int(np.searchsorted(enclosed, m)), last)] for m in masses}
    edges = sorted({*thresholds, ordered[0] * (1 + 1e-9)})
    ax = axes_of(ax)
    if len(edges) > 1:
        shades = colormaps["Greys"](np.linspace(0.15, 0.6, len(edges) - 1))
        ax.contourf(x, y, values, levels=edges, colors=shades)
    return ax


def _in_plane(z: NDArray, axes: NDArray) -> NDArray:
    """Project on one or two axes; the second coordinate is 0 if there is one axis."""
    points = z @ axes
    return points if points.shape[1] > 1 else np.column_stack([points, np.zeros(len(points))])
