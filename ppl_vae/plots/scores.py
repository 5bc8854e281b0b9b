"""Scores of models side by side, and the calibration of classifiers and of intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from ppl_vae.errors import number, sequence
from ppl_vae.plots.arguments import array, axes_of, finite, mapping, same_length
from ppl_vae.plots.colours import FAINT, PALETTE, colour, marker
from ppl_vae.plots.text import legend_outside


def comparison(
    names: Sequence[str],
    estimates: Mapping[str, ArrayLike],
    errors: Mapping[str, ArrayLike] | None = None,
    *,
    xlabel: str = "nats per datum",
    ax: Axes | None = None,
) -> Axes:
    """Compare models: a line for each, with a marker and an error bar per quantity.

    Markers rather than bars, since half a nat in a hundred does not show in bars from 0.

    Args:
        names: the M models, from top to bottom.
        estimates: quantity (NELBO, IWAE-100, ...) -> values, shape ``(M,)``, NaN where a model has
            none.
        errors: quantity -> standard errors, shape ``(M,)``, NaN where unknown; quantities may be
            left out.
        xlabel: name of the quantities and their unit.

    Raises:
        ValueError: if there is nothing to draw, lengths differ, a value is infinite, an error is
            negative, or there are errors of an unknown quantity.
    """
    names = sequence("comparison", "names", names, "strings")
    if not names:
        raise ValueError("comparison: names must not be empty")
    mapping("comparison", "estimates", estimates, "quantities to values")
    if errors:
        mapping("comparison", "errors", errors, "quantities to values")
    for unknown in sorted((errors or {}).keys() - estimates.keys()):
        raise ValueError(
            f"comparison: errors must be of {', '.join(estimates)}, as estimates, got {unknown!r}"
        )
    drawn = {}
    for quantity, numbers in estimates.items():
        values = _per_model(f"estimates[{quantity!r}]", numbers, len(names))
        error = np.full(len(names), np.nan)
        if errors is not None and quantity in errors:
            error = _per_model(f"errors[{quantity!r}]", errors[quantity], len(names))
        if (error < 0).any():
            raise ValueError(f"comparison: errors[{quantity!r}] must be at least 0")
        drawn[str(quantity)] = values, error
    if all(np.isnan(values).all() for values, _ in drawn.values()):
        raise ValueError("comparison: estimates must not all be NaN")
    ax, lines = axes_of(ax), np.arange(len(names))
    for i, (quantity, (values, error)) in enumerate(drawn.items()):
        at = lines + 0.5 * ((i + 0.5) / len(drawn) - 0.5)
        shown = ~np.isnan(values)
        ax.plot(values[shown], at[shown], marker(i), color=colour(i), markersize=5, label=quantity)
        known = shown & ~np.isnan(error)
        ax.errorbar(
            values[known], at[known], xerr=error[known], fmt="none", ecolor=colour(i), capsize=2
        )
    ax.set_yticks(lines, [str(name) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel(xlabel + (" (± standard error)" if errors else ""))
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    for between in lines[1:] - 0.5:
        ax.axhline(between, color="0.9", linewidth=0.8)
    if len(drawn) > 1:
        legend_outside(ax, fontsize="small")
    else:
        ax.set_xlabel(f"{next(iter(drawn))}, {ax.get_xlabel()}")
    return ax


def reliability(
    confidence: ArrayLike,
    accuracy: ArrayLike,
    counts: ArrayLike,
    *,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw a reliability diagram of a classifier q(y | x).

    A calibrated classifier lies on the diagonal, an overconfident one below. Each bin has Wilson's
    95 % interval of its accuracy and the share of the data in it (grey); the title has the expected
    calibration error ECE = Σ_b (n_b / N) \|accuracy_b - confidence_b\| (Guo et al. 2017, arXiv
    1706.04599, equation 3).

    Args:
        confidence: mean largest probability in each bin, shape ``(bins,)``.
        accuracy: share of correct labels in each bin, shape ``(bins,)``.
        counts: number of data in each bin, shape ``(bins,)``; empty bins are left out, and their
            confidence and accuracy may be NaN.

    Raises:
        ValueError: if the lengths differ, all bins are empty, counts are not whole numbers, or a
            confidence or accuracy of a bin with data is outside [0, 1].
    """
    confidence = array("reliability", "confidence", confidence, 1)
    accuracy = array("reliability", "accuracy", accuracy, 1)
    counts = array("reliability", "counts", counts, 1)
    same_length("reliability", len(counts), "the bins", confidence=confidence, accuracy=accuracy)
    if not ((counts >= 0) & (counts == np.round(counts)) & np.isfinite(counts)).all():
        raise ValueError("reliability: counts must be whole numbers, 0 or more")
    if not counts.sum():
        raise ValueError("reliability: counts must not all be 0")
    order = np.argsort(confidence, kind="stable")
    order = order[counts[order] > 0]
    confidence, accuracy, counts = confidence[order], accuracy[order], counts[order]
    for name, a in {"confidence": confidence, "accuracy": accuracy}.items():
        if not ((a >= 0) & (a <= 1)).all():
            raise ValueError(f"reliability: {name} must be in [0, 1], got {a.tolist()}")
    share = counts / counts.sum()
    ece = (share * np.abs(accuracy - confidence)).sum()
    low, high = _wilson(accuracy, counts)
    ax = axes_of(ax)
    ax.plot([0, 1], [0, 1], "--", color="0.5", linewidth=1, label="calibrated", zorder=1)
    ax.vlines(confidence, 0, share, color=FAINT, linewidth=7, label="share of data", zorder=0)
    ax.errorbar(
        confidence,
        accuracy,
        np.stack([(accuracy - low).clip(min=0), (high - accuracy).clip(min=0)]),
        fmt="o-",
        color=PALETTE[0],
        markersize=5,
        linewidth=1.5,
        elinewidth=1,
        capsize=2,
        label="accuracy (95 % interval)",
        zorder=2,
    )
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    ax.set_xlabel("confidence: largest $q(y|x)$")
    ax.set_ylabel("accuracy")
    ax.set_title(f"expected calibration error {100 * ece:.1f} %", fontsize="medium")
    ax.legend(fontsize="x-small", loc="best")
    return ax


def coverage(
    nominal: ArrayLike,
    observed: ArrayLike,
    counts: ArrayLike,
    *,
    level: int | float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """Draw how many values lie in their predictive intervals, against how many should.

    Calibrated intervals lie on the diagonal, too narrow ones below, too wide ones above. Each point
    has Wilson's interval of its share.

    Args:
        nominal: probabilities of the intervals, shape ``(L,)``.
        observed: shares of values inside, shape ``(L,)``.
        counts: numbers of values, shape ``(L,)``.
        level: of confidence of Wilson's intervals, between 0 and 1.

    Raises:
        ValueError: if the lengths differ, a share or probability is outside [0, 1], or a count is
            not a whole number of 1 or more.
    """
    nominal = finite("coverage", "nominal", nominal, 1)
    observed = finite("coverage", "observed", observed, 1)
    counts = finite("coverage", "counts", counts, 1)
    level = number("coverage", "level", level, above=0, below=1)
    same_length("coverage", len(nominal), "the intervals", observed=observed, counts=counts)
    for name, a in {"nominal": nominal, "observed": observed}.items():
        if not ((a >= 0) & (a <= 1)).all():
            raise ValueError(f"coverage: {name} must be in [0, 1], got {a.tolist()}")
    if not ((counts >= 1) & (counts == np.round(counts))).all():
        raise ValueError("coverage: counts must be whole numbers, 1 or more")
    low, high = _wilson(observed, counts, NormalDist().inv_cdf((1 + level) / 2))
    ax = axes_of(ax)
    ends = [0, 1]
    ax.fill_between(ends, ends, 0, color="0.95", linewidth=0, zorder=0)
    ax.plot(ends, ends, "--", color="0.5", linewidth=1, label="calibrated", zorder=1)
    ax.errorbar(
        nominal,
        observed,
        np.stack([(observed - low).clip(min=0), (high - observed).clip(min=0)]),
        fmt="o-",
        color=PALETTE[0],
        markersize=5,
        linewidth=1.5,
        elinewidth=1,
        capsize=2,
        label=f"inside ({100 * level:g} % interval)",
        zorder=2,
    )
    ax.text(0.95, 0.05, "too narrow", ha="right", color="0.4")
    ax.text(0.05, 0.95, "too wide", va="top", color="0.4")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set_xlabel("probability of the interval")
    ax.set_ylabel("share of values inside")
    ax.legend(fontsize="x-small", loc="center left")
    return ax


def _per_model(name: str, value: ArrayLike, count: int) -> NDArray:
    values = array("comparison", name, value, 1)
    same_length("comparison", count, "the models", **{name: values})
    if np.isinf(values).any():
        raise ValueError(f"comparison: {name} must not be infinite")
    return values


def _wilson(share: NDArray, counts: NDArray, z: float = 1.96) -> tuple[NDArray, NDArray]:
    """Return the score interval of a proportion (Wilson 1927), which stays within [0, 1]."""
    shrink = 1 + z**2 / counts
    centre = (share + z**2 / (2 * counts)) / shrink
    half = z / shrink * np.sqrt(share * (1 - share) / counts + (z / (2 * counts)) ** 2)
    return centre - half, centre + half
