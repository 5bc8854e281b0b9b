"""The calibration of a guide: ranks against their bands, and expected coverage."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from ppl_vae.errors import reason
from ppl_vae.plots.arguments import axes_of, finite, same_length
from ppl_vae.plots.colours import FAINT, PALETTE, colour, line
from ppl_vae.plots.text import legend_outside, literal

_NAMED = 12
"""Quantities outside their bands that have a colour and a name."""


def rank_ecdf(
    points: ArrayLike,
    ecdf: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    names: Sequence[str],
    words: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw how far ECDFs of ranks are from that of uniform ranks, within their common band.

    Quantities that leave the band have a colour and a name. A curve that is first above and then
    below 0 is of a guide that is too narrow, first below and then above of one too wide; above 0
    all along its draws are too large, below 0 too small.

    Args:
        points: where the ECDFs are taken, within 0 and 1, shape ``(L,)``.
        ecdf: shares of ranks, shape ``(quantities, L)``.
        lower: the band's lower limit of an ECDF, shape ``(L,)``.
        upper: likewise.
        names: of the quantities.
        words: the title, such as what is wrong.

    Raises ValueError if lengths differ, or a value is not finite.

    Example:
        >>> found = calibration(vae)  # doctest: +SKIP
        >>> band = found.lower, found.upper  # doctest: +SKIP
        >>> rank_ecdf(found.points, found.ecdf, *band, names=found.names)  # doctest: +SKIP
    """
    owner = "rank_ecdf"
    points, low, high = _band(owner, points, lower, upper)
    shares = finite(owner, "ecdf", ecdf, 2)
    same_length(owner, len(shares), "the quantities", names=names)
    same_length(owner, len(points), "the points", **{"ecdf[0]": shares[0]})
    outside: NDArray = np.any((shares < low) | (shares > high), axis=1)
    ax = axes_of(ax)
    ax.fill_between(points, low - points, high - points, color=FAINT, linewidth=0, label="band")
    ax.axhline(0, color="0.5", linewidth=1, linestyle="--")
    inside = shares[~outside] - points
    for index, difference in enumerate(inside):
        label = f"{len(inside)} inside" if index == 0 else None
        ax.plot(points, difference, color="0.5", linewidth=0.8, label=label)
    furthest = np.argsort(-np.abs(shares - points).max(1), kind="stable")
    for order, index in enumerate(i for i in furthest if outside[i]):
        named = order < _NAMED
        ax.plot(
            points,
            shares[index] - points,
            line(order) if named else ":",
            color=colour(order) if named else "0.3",
            linewidth=1.5 if named else 0.8,
            label=literal(str(names[index])) if named else None,
        )
    ax.set(xlim=(0, 1))
    ax.set_xlabel("rank of the truth among draws of q, from 0 to 1")
    ax.set_ylabel("ECDF $-$ uniform")
    _title(ax, words)
    legend_outside(ax, fontsize="x-small")
    return ax


def expected_coverage(
    credibility: ArrayLike,
    coverage: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    words: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw how many true latents lie in regions of q(z | x), against how many should.

    The regions are balls around random points that hold a share of q's draws, the credibility.
    Exact draws lie on the diagonal.

    Source: Lemos et al. 2023 (arXiv 2302.03026).

    Args:
        credibility: of the regions, within 0 and 1, shape ``(L,)``.
        coverage: shares of true latents inside, shape ``(L,)``.
        lower: the lower limit of a band around the diagonal, shape ``(L,)``.
        upper: likewise.
        words: the title, such as what is wrong.

    Raises ValueError if lengths differ, or a value is not finite.
    """
    owner = "expected_coverage"
    points, low, high = _band(owner, credibility, lower, upper, "credibility")
    shares = finite(owner, "coverage", coverage, 1)
    same_length(owner, len(points), "the regions", coverage=shares)
    ax = axes_of(ax)
    ax.fill_between(points, low, high, color=FAINT, linewidth=0, label="band")
    ax.plot([0, 1], [0, 1], "--", color="0.5", linewidth=1, label="calibrated")
    ax.plot(points, shares, color=PALETTE[0], linewidth=1.5, label="expected coverage")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set_xlabel("credibility of the region")
    ax.set_ylabel("share of true latents inside")
    _title(ax, words)
    ax.legend(fontsize="x-small", loc="upper left")
    return ax


def _band(
    owner: str, points: ArrayLike, lower: ArrayLike, upper: ArrayLike, name: str = "points"
) -> tuple[NDArray, NDArray, NDArray]:
    """Return the points, within 0 and 1, and the limits at them."""
    at = finite(owner, name, points, 1)
    low, high = finite(owner, "lower", lower, 1), finite(owner, "upper", upper, 1)
    same_length(owner, len(at), f"the {name}", lower=low, upper=high)
    if not ((at >= 0) & (at <= 1)).all():
        raise ValueError(f"{owner}: {name} must be in [0, 1], got {at.min():g} to {at.max():g}")
    return at, low, high


def _title(ax: Axes, words: str) -> None:
    """Write words above the Axes, in lines, without mathtext."""
    text = textwrap.fill(reason(str(words), 320), 90).replace("$", r"\$")
    ax.set_title(text, fontsize="small", loc="left")
