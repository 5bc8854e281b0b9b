"""Statistics of real data beside those of data that a model generates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from ppl_vae.errors import number, sequence
from ppl_vae.plots.arguments import axes_of, finite, same_length
from ppl_vae.plots.colours import FAINT, PALETTE
from ppl_vae.plots.text import literal

_INNER, _OUTER = (25, 75), (2.5, 97.5)


def predictive_checks(
    names: Sequence[str],
    observed: ArrayLike,
    replicated: ArrayLike,
    *,
    limit: int | float = 6.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw each statistic of the data against those of replicated data, a line for each.

    In standard deviations of the replicates from their mean: a box for half of the replicates,
    whiskers for 95 % of them, and a marker for the data, red outside the whiskers. A marker further
    away than ``limit`` becomes an arrow there; where all replicates are alike, data that agree are
    at 0 and others at the limit. The data's own value stands on the right.

    Args:
        names: the T statistics, from top to bottom.
        observed: of the data, shape ``(T,)``.
        replicated: of R replicated data sets, shape ``(R, T)``.
        limit: of the axis, in standard deviations.

    Raises:
        ValueError: if there is nothing to draw, lengths differ or a value is not finite.
    """
    owner = "predictive_checks"
    names = sequence(owner, "names", names, "strings")
    if not names:
        raise ValueError(f"{owner}: names must not be empty")
    observed = finite(owner, "observed", observed, 1)
    replicated = finite(owner, "replicated", replicated, 2)
    limit = number(owner, "limit", limit, above=0)
    same_length(owner, len(names), "the names", observed=observed, replicated=replicated.T)
    mean, sd = replicated.mean(0), replicated.std(0)
    sd[(replicated == replicated[0]).all(0)] = 0  # where the mean rounds
    mean = np.where(sd == 0, replicated[0], mean)
    ax = axes_of(ax)
    for line in range(len(names)):
        unit = sd[line] or 1.0
        scaled = (replicated[:, line] - mean[line]) / unit
        at = (observed[line] - mean[line]) / unit
        if not sd[line]:
            at = np.sign(at) * np.inf if at else 0.0
        (low, high), (left, right) = np.percentile(scaled, _INNER), np.percentile(scaled, _OUTER)
        ax.plot([left, right], [line, line], color="0.6", linewidth=1, zorder=1)
        ax.barh(line, high - low, left=low, height=0.5, color=FAINT, zorder=2)
        outside = not left <= at <= right
        shown = float(np.clip(at, -limit, limit))
        marker = "o" if shown == at else ">" if at > 0 else "<"
        colour = PALETTE[2] if outside else "black"
        ax.plot(shown, line, marker, color=colour, markersize=5, zorder=3, clip_on=False)
        ax.annotate(
            f"{observed[line]:.3g}",
            (1.01, line),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize="x-small",
        )
    ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(names)), [literal(str(name)) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(-limit, limit)
    ax.set_xlabel("data, in standard deviations of replicated data from their mean")
    return ax
