"""Columns of a table: their distributions, real beside synthetic, and their associations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import Locator, LogLocator, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from ppl_vae.errors import flag, number, sequence
from ppl_vae.plots.arguments import array, axes_of, finite, same_length
from ppl_vae.plots.colours import PALETTE
from ppl_vae.plots.text import literal
from ppl_vae.plots.text import number as written

REAL, SYNTHETIC = "real", "synthetic"
_REAL: dict[str, Any] = {"color": PALETTE[0], "alpha": 0.45, "label": REAL}
_SYNTHETIC: dict[str, Any] = {"color": PALETTE[2], "linewidth": 1.5, "label": SYNTHETIC}
_WRITTEN = 14
"""So many columns have their associations written as numbers."""


def histograms(
    real: ArrayLike,
    synthetic: ArrayLike,
    *,
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw the histogram of a column of numbers, filled, and that of synthetic ones as a line.

    Both have the same bins, at most 30: one for each value where there are so few whole numbers.
    Heights are shares of a sample. The outermost bins also hold what lies beyond the range of the
    real values by more than a tenth of it.

    Args:
        real: shape ``(n,)``.
        synthetic: shape ``(m,)``.
        log: logarithmic axis and bins, for values above zero.

    Raises:
        ValueError: if a sample is empty or has a value that is not finite, or with ``log`` one that
            is not above zero.
    """
    real = finite("histograms", "real", real, 1)
    synthetic = finite("histograms", "synthetic", synthetic, 1)
    log = flag("histograms", "log", log)
    if log and min(real.min(), synthetic.min()) <= 0:
        smallest = min(real.min(), synthetic.min())
        raise ValueError(f"histograms: log is for values above zero, got {smallest:g}")
    bins = _bins(real, synthetic, log)
    shares = [
        np.histogram(values.clip(bins[0], bins[-1]), bins)[0] / len(values)
        for values in (real, synthetic)
    ]
    ax = axes_of(ax)
    ax.stairs(shares[0], bins, fill=True, **_REAL)
    ax.stairs(shares[1], bins, **_SYNTHETIC)
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(_log_ticks(bins[-1] / bins[0]))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
        ax.tick_params(axis="x", labelsize="small")
    ax.set_ylim(bottom=0)
    ax.set_ylabel("share")
    ax.legend(fontsize="x-small")
    return ax


def _log_ticks(ratio: float) -> Locator:
    """Return where the ticks of a logarithmic axis are, whose ends have such a ratio.

    Powers of ten alone are too few in a narrow range, and equal steps crowd at the end of a wide
    one.
    """
    if ratio < 6:
        return MaxNLocator(3)
    if ratio < 30:
        return LogLocator(subs=(1.0, 2.0, 5.0))
    return LogLocator(subs=(1.0, 3.0) if ratio < 300 else (1.0,))


def shares(
    real: ArrayLike,
    synthetic: ArrayLike,
    names: Sequence[str],
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the shares of a column's categories, real beside synthetic, from top to bottom.

    Args:
        real: shape ``(K,)``.
        synthetic: likewise.
        names: of the K categories.

    Raises:
        ValueError: if the lengths differ, or a share is outside [0, 1].
    """
    both = {"real": finite("shares", "real", real, 1)}
    both["synthetic"] = finite("shares", "synthetic", synthetic, 1)
    names = sequence("shares", "names", names, "strings")
    same_length("shares", len(names), "the names", **both)
    for name, values in both.items():
        if not ((values >= 0) & (values <= 1 + 1e-9)).all():
            raise ValueError(f"shares: {name} must be in [0, 1], got {values.tolist()}")
    ax, at = axes_of(ax), np.arange(len(names))
    ax.barh(at - 0.2, both["real"], 0.4, **_REAL)
    ax.barh(at + 0.2, both["synthetic"], 0.4, color=PALETTE[2], label=SYNTHETIC)
    ax.set_yticks(at, [literal(str(name)) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5 - 0.3 * len(names))  # the legend is above the bars
    ax.set_xlabel("share")
    ax.legend(loc="upper right", fontsize="x-small")
    return ax


def associations(
    values: ArrayLike,
    names: Sequence[str],
    *,
    limit: int | float = 1.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw a matrix of associations of columns, red above zero, blue below, grey where NaN.

    Up to fourteen columns have the numbers written in.

    Args:
        values: shape ``(D, D)``; NaN where there is none.
        names: of the D columns.
        limit: the value of the darkest colours.

    Raises:
        ValueError: if the matrix is not square, a value is infinite, or names are not as many.
    """
    values = array("associations", "values", values, 2)
    names = sequence("associations", "names", names, "strings")
    limit = number("associations", "limit", limit, above=0)
    if values.shape[0] != values.shape[1] or np.isinf(values).any():
        raise ValueError(
            f"associations: values must be a square matrix without infinity, got {values.shape}"
        )
    same_length("associations", len(values), "the columns", names=names)
    ax, at = axes_of(ax), np.arange(len(names))
    ax.set_facecolor("0.8")
    image = ax.imshow(np.ma.masked_invalid(values), cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set_xticks(at, [literal(str(name)) for name in names], rotation=90)
    ax.set_yticks(at, [literal(str(name)) for name in names])
    ax.tick_params(labelsize="x-small", length=0)
    if len(names) <= _WRITTEN:
        for (i, j), value in np.ndenumerate(values):
            if i != j and np.isfinite(value):
                colour = "white" if abs(value) > 0.6 * limit else "black"
                text = re.sub(r"^(\W?)0\.", r"\1.", written(float(value), 2))  # .25, not 0.25
                ax.text(j, i, text, ha="center", va="center", color=colour, fontsize=6)
    ax.figure.colorbar(image, ax=ax, shrink=0.7)
    return ax


def _bins(real: NDArray, synthetic: NDArray, log: bool) -> NDArray:
    """Return the edges of at most 30 bins."""
    values = np.concatenate([real, synthetic])
    scaled = np.log(real) if log else real
    low, high = scaled.min(), scaled.max()
    reach = 0.1 * (high - low) or 0.5
    low, high = low - reach, high + reach
    within = np.log(values) if log else values
    low, high = max(low, within.min()), min(high, within.max())
    if not log and (values == np.round(values)).all() and high - low < 30:
        return np.arange(np.floor(low), np.ceil(high) + 2) - 0.5
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, 31)
    return np.exp(edges) if log else edges
