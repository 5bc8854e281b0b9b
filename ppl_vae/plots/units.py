"""Latent dimensions one by one: how wide their posteriors are and which of them are used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from ppl_vae.errors import number
from ppl_vae.plots.arrays import finite, names_of, same_length
from ppl_vae.plots.axes import axes_of
from ppl_vae.plots.colours import FAINT, PALETTE, colour, marker


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
    r"""Draw the posterior interval of each latent dimension, over the prior's.

    The central interval of the given mass of a normal, loc ± Φ⁻¹((1 + mass) / 2) · scale.

    Args:
        loc: means of q(z | x), shape ``(latent_dim,)`` for one datum, or ``(N, latent_dim)``.
        scale: standard deviations, of the same shape.
        prior: the prior's means and standard deviations, each a number or of shape
            ``(latent_dim,)``; None where the prior is not normal, for no comparison.
        mass: what the intervals hold, between 0 and 1.
        data_names: N names of the data, for the legend.
        names: names of the dimensions; z_1, z_2, ... if not given.
        ax: where to draw; the current Axes if not given.

    Raises:
        ValueError: if the shapes disagree, a value is not finite, or a scale is not above 0.
    """
    loc, scale = finite("intervals", "loc", loc, 1, 2), finite("intervals", "scale", scale, 1, 2)
    if loc.shape != scale.shape:
        raise ValueError(
            f"intervals: loc has shape {loc.shape} and scale {scale.shape}; they must be the same"
        )
    if scale.min() <= 0:
        raise ValueError(
            f"intervals: scale must be above 0, got {scale.min():g}; it is a standard deviation, "
            f"not its logarithm"
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
        # Several data stand side by side within the width of the prior's band.
        offset = 0.6 * ((i + 0.5) / count - 0.5)
        label = str(data_names[i]) if data_names is not None else "$q(z|x)$"
        ax.errorbar(
            at + offset,
            loc[i],
            half * scale[i],
            fmt=marker(i),
            color=colour(i),
            markersize=4,
            linewidth=1.5,
            label=label if i == 0 or data_names is not None else None,
        )
    _name_dimensions(ax, names, np.arange(dims))
    ax.set_ylabel(f"{100 * mass:g} % interval of $z$")
    _outside(ax)
    return ax


def kl_per_dimension(
    kl: ArrayLike,
    active: ArrayLike | None = None,
    *,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the KL of each latent dimension as bars, largest first, active units marked.

    Args:
        kl: in nats, shape ``(latent_dim,)``; a Monte Carlo estimate may be slightly below 0.
        active: which units are active, boolean, shape ``(latent_dim,)``; by Burda et al. 2016
            (arXiv 1509.00519, section 5.2) those with Var_x(E_q[z]) > 0.01.
        names: names of the dimensions; z_1, z_2, ... if not given.
        ax: where to draw; the current Axes if not given.

    Raises:
        ValueError: if kl is empty or not finite, or another argument does not suit it.
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
                f"kl_per_dimension: active must be boolean, got {active.dtype}; compare the "
                f"variance of the posterior means with a threshold, such as 0.01"
            )
        is_active = active[order]
        for chosen, label, face, edge, hatch in (
            (is_active, "active", PALETTE[0], PALETTE[0], ""),
            (~is_active, "inactive", "white", "0.4", "////"),
        ):
            if chosen.any():
                ax.bar(
                    at[chosen],
                    kl[order][chosen],
                    facecolor=face,
                    edgecolor=edge,
                    hatch=hatch,
                    linewidth=0.5,
                    label=f"{label}: {chosen.sum()} of {len(kl)}",
                )
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
            raise ValueError(
                f"intervals: {name} must be a number or of shape ({dims},), got {values.shape}"
            )
        parts.append(np.broadcast_to(values, (dims,)))
    loc, scale = parts
    if scale.min() <= 0:
        raise ValueError(f"intervals: prior[1] must be above 0, got {scale.min():g}")
    ax.bar(
        np.arange(dims),
        2 * half * scale,
        bottom=loc - half * scale,
        width=0.8,
        color=FAINT,
        label="$p(z)$",
        zorder=0,
    )


def _name_dimensions(ax: Axes, names: Sequence[str] | None, order: NDArray) -> None:
    """Write the dimensions' names below, as many as are legible."""
    count = len(order)
    written = [str(n) for n in names] if names is not None else names_of(count)
    # In points, in small letters; what fits depends on the Axes at this moment.
    room = ax.get_window_extent().width * 72 / ax.figure.dpi / count
    needed = 5 + 4.3 * len(str(count)) if names is None else 6 * max(map(_length, written))
    upright = names is not None and needed > room
    step = int(np.ceil((11 if upright else needed) / room))
    at = np.arange(0, count, step)
    ax.set_xticks(at, [written[order[i]] for i in at], rotation=90 if upright else 0)
    ax.tick_params(axis="x", labelsize="small")
    ax.set_xlim(-0.6, count - 0.4)
    if names is None:
        ax.set_xlabel("latent dimension")


def _length(name: str) -> int:
    """Return how many letters are seen of a name, which may be mathematics: $z_{10}$ has three."""
    return len(re.sub(r"[${}_^\\]", "", name)) if name.count("$") > 1 else len(name)


def _outside(ax: Axes) -> None:
    ax.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
