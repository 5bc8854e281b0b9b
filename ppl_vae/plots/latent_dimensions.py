"""Latent dimensions one by one: their posteriors' intervals and their KL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from ppl_vae.errors import number
from ppl_vae.plots.arguments import axes_of, finite, same_length, same_shape
from ppl_vae.plots.colours import FAINT, PALETTE, colour, marker
from ppl_vae.plots.text import dimension_names, legend_outside


def intervals(
    loc: ArrayLike,
    scale: ArrayLike,
    *,
    prior: tuple[ArrayLike | float, ArrayLike | float] | None = (0.0, 1.0),
    mass: int | float = 0.95,
    data_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw central intervals of the posterior of each latent dimension, over those of the prior.

    For normals: loc ± Φ⁻¹((1 + mass) / 2) · scale.

    Args:
        loc: means of q(z | x), shape ``(latent_dim,)`` for one datum, or ``(N, latent_dim)``.
        scale: standard deviations, of the same shape.
        prior: the prior's means and standard deviations, each a number or of shape
            ``(latent_dim,)``; None for no prior, such as one that is not normal.
        mass: probability of the intervals, between 0 and 1.
        data_names: N names of the data, for the legend.
        names: of the dimensions; z_1, z_2, ... if not given.

    Raises:
        ValueError: if the shapes disagree, a value is not finite, or a scale is not above 0.
    """
    loc, scale = finite("intervals", "loc", loc, 1, 2), finite("intervals", "scale", scale, 1, 2)
    same_shape("intervals", loc=loc, scale=scale)
    if scale.min() <= 0:
        raise ValueError(
            f"intervals: scale must be above 0, got {scale.min():g}; take exp of its logarithm"
        )
    mass = number("intervals", "mass", mass, above=0, below=1)
    loc, scale = np.atleast_2d(loc), np.atleast_2d(scale)
    count, dims = loc.shape
    same_length("intervals", count, "the data", data_names=data_names)
    same_length("intervals", dims, "the dimensions", names=names)
    half = NormalDist().inv_cdf((1 + mass) / 2)
    ax, at = axes_of(ax), np.arange(dims)
    if prior is not None:
        _prior_bands(ax, prior, half, dims)
    for i in range(count):
        # Intervals of several data lie side by side within the width of the prior's.
        offset = 0.6 * ((i + 0.5) / count - 0.5)
        label = ("$q(z|x)$" if i == 0 else None) if data_names is None else str(data_names[i])
        ax.errorbar(
            at + offset,
            loc[i],
            half * scale[i],
            fmt=marker(i),
            color=colour(i),
            markersize=4,
            linewidth=1.5,
            label=label,
        )
    _name_dimensions(ax, names, at)
    ax.set_ylabel(f"{100 * mass:g} % interval of $z$")
    legend_outside(ax, fontsize="x-small")
    return ax


def kl_per_dimension(
    kl: ArrayLike,
    active: ArrayLike | None = None,
    *,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the KL of each latent dimension as bars in descending order, with active units marked.

    Args:
        kl: in nats, shape ``(latent_dim,)``; Monte Carlo estimates may be slightly below 0.
        active: which units are active, boolean, shape ``(latent_dim,)``: those with
            Var_x(E_q[z]) > 0.01 in Burda et al. 2016 (arXiv 1509.00519, section 5.2).
        names: of the dimensions; z_1, z_2, ... if not given.

    Raises:
        ValueError: if kl is empty or not finite, or another argument has another length.
        TypeError: if active is not boolean.
    """
    kl = finite("kl_per_dimension", "kl", kl, 1)
    same_length("kl_per_dimension", len(kl), "the dimensions", names=names)
    order, at = np.argsort(-kl, kind="stable"), np.arange(len(kl))
    ax = axes_of(ax)
    if active is None:
        ax.bar(at, kl[order], color=PALETTE[0])
    else:
        active = np.asarray(active)
        same_length("kl_per_dimension", len(kl), "the dimensions", active=active)
        if active.dtype != bool:
            raise TypeError(
                f"kl_per_dimension: active must be boolean, got {active.dtype}, as activity > 0.01"
            )
        styles: dict[str, dict[str, Any]] = {
            "active": {"fc": PALETTE[0], "ec": PALETTE[0]},
            "inactive": {"fc": "white", "ec": "0.4", "hatch": "////"},
        }
        for is_active, (label, style) in zip((True, False), styles.items(), strict=True):
            chosen = active[order] == is_active
            if chosen.any():
                label += f": {chosen.sum()} of {len(kl)}"
                ax.bar(at[chosen], kl[order][chosen], linewidth=0.5, label=label, **style)
        ax.legend(fontsize="small")
    _name_dimensions(ax, names, order)
    ax.set_ylabel("KL (nats)")
    return ax


def _prior_bands(
    ax: Axes, prior: tuple[ArrayLike | float, ArrayLike | float], half: float, dims: int
) -> None:
    same_length("intervals", 2, "location and scale", prior=prior)
    parts = []
    for name, part in zip(("prior[0]", "prior[1]"), prior, strict=True):
        values = finite("intervals", name, np.asarray(part), 0, 1)
        if values.shape not in ((), (1,), (dims,)):
            shape = f"a number or of shape ({dims},)"
            raise ValueError(f"intervals: {name} must be {shape}, got {values.shape}")
        parts.append(np.broadcast_to(values, (dims,)))
    loc, scale = parts
    if scale.min() <= 0:
        raise ValueError(f"intervals: prior[1] must be above 0, got {scale.min():g}")
    bottom, height = loc - half * scale, 2 * half * scale
    ax.bar(np.arange(dims), height, 0.8, bottom, color=FAINT, label="$p(z)$", zorder=0)


def _name_dimensions(ax: Axes, names: Sequence[str] | None, order: NDArray) -> None:
    """Write the dimensions' names below the axis, as many as are legible."""
    count = len(order)
    written = dimension_names(count, names)
    # In points, for small letters and the present size of the Axes.
    available = ax.get_window_extent().width * 72 / ax.figure.dpi / count
    needed = 5 + 4.3 * len(str(count)) if names is None else 6 * max(map(_visible_length, written))
    upright = names is not None and needed > available
    step = int(np.ceil((11 if upright else needed) / available))
    at = np.arange(0, count, step)
    ax.set_xticks(at, [written[order[i]] for i in at], rotation=90 if upright else 0)
    ax.tick_params(axis="x", labelsize="small")
    ax.set_xlim(-0.6, count - 0.4)
    if names is None:
        ax.set_xlabel("latent dimension")


def _visible_length(name: str) -> int:
    """Return the number of visible letters of a name: 3 for $z_{10}$."""
    return len(re.sub(r"[${}_^\\]", "", name)) if name.count("$") > 1 else len(name)
