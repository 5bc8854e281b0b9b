"""Training curves, and the terms of the ELBO over training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from ppl_vae.plots.arguments import array, axes_of, finite, mapping, same_length
from ppl_vae.plots.colours import colour, hatch, line
from ppl_vae.plots.text import legend_outside, literal


def curves(
    history: Mapping[str, ArrayLike],
    *,
    xlabel: str = "step",
    ylabel: str = "nats per datum",
    ax: Axes | None = None,
) -> Axes:
    """Draw training curves.

    Args:
        history: name -> values, shape ``(T,)``, one per step 0, 1, ..., or pairs of step and value,
            shape ``(T, 2)``. Values that are not finite are gaps, and the legend says how many:
            divergence shows.
        xlabel: name of the steps.
        ylabel: name of the values and their unit.

    Raises:
        ValueError: if there is no curve, or a curve has another shape, a step that is not finite
            or no finite value.
    """
    drawn = {}
    for name, values in checked_history("curves", history).items():
        is_finite = np.isfinite(values[:, 1])
        gaps = len(is_finite) - is_finite.sum()
        label = literal(str(name)) + (f" ({gaps} not finite)" if gaps else "")
        drawn[label] = values[:, 0], np.where(is_finite, values[:, 1], np.nan)
    ax = axes_of(ax)
    for i, (label, (steps, values)) in enumerate(drawn.items()):
        ax.plot(steps, values, line(i), color=colour(i), label=label)
        # A value between gaps has no line, and is invisible without a marker.
        shown = np.pad(np.isfinite(values), 1)
        single = shown[1:-1] & ~shown[:-2] & ~shown[2:]
        if single.any():
            ax.plot(steps[single], values[single], "o", color=colour(i), markersize=4)
    if all((steps == np.round(steps)).all() for steps, _ in drawn.values()):
        ax.locator_params(axis="x", integer=True)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.legend(fontsize="small")
    return ax


def checked_history(owner: str, history: Mapping[str, ArrayLike]) -> dict[str, NDArray]:
    """Return the steps and values of each curve, shape ``(T, 2)``; raise an error for others."""
    mapping(owner, "history", history, "names to values")
    curves = {}
    for name, given in history.items():
        values = array(owner, f"history[{name!r}]", given, 1, 2)
        if values.ndim == 2 and values.shape[1] != 2:
            raise ValueError(
                f"{owner}: history[{name!r}] must have shape (T,) or (T, 2), got {values.shape}"
            )
        if values.ndim == 1:
            values = np.column_stack([np.arange(len(values)), values])
        finite(owner, f"steps of history[{name!r}]", values[:, 0])
        if not np.isfinite(values[:, 1]).any():
            raise ValueError(f"{owner}: history[{name!r}] must have a finite value, got none")
        curves[name] = values
    return curves


def stack(
    terms: Mapping[str, ArrayLike],
    steps: ArrayLike | None = None,
    *,
    xlabel: str = "epoch",
    ylabel: str = "nats per datum",
    total: str = "sum",
    ax: Axes | None = None,
) -> Axes:
    """Stack the terms of the ELBO over training, with their sum.

    The negative ELBO is reconstruction + KL, and the KL is mutual information + total correlation +
    dimension-wise KL (Chen et al. 2018, arXiv 1802.04942, equation 2). Positive values are stacked
    upwards from 0, negative ones, such as the reconstruction term of a density, downwards; the
    black line is the sum.

    Args:
        terms: name -> values, shape ``(T,)``, from bottom to top.
        steps: ascending, shape ``(T,)``; 0, 1, ... if not given.
        xlabel: name of the steps.
        ylabel: the unit of the terms.
        total: name of the sum, such as ``"NELBO"``.

    Raises:
        ValueError: if there is no term, the lengths differ, or a value is not finite.
    """
    mapping("stack", "terms", terms, "names to values")
    values = {name: finite("stack", f"terms[{name!r}]", v, 1) for name, v in terms.items()}
    count = len(next(iter(values.values())))
    for name, v in values.items():
        same_length("stack", count, "the steps", **{f"terms[{name!r}]": v})
    at = np.arange(count) if steps is None else finite("stack", "steps", steps, 1)
    same_length("stack", count, "the values", steps=at)
    if (np.diff(at) <= 0).any():
        raise ValueError("stack: steps must ascend")
    if count == 1:  # an area needs two points
        at = at[0] + np.array([-0.5, 0.5])
        values = {name: np.repeat(v, 2) for name, v in values.items()}
    ax = axes_of(ax)
    above, below = np.zeros(len(at)), np.zeros(len(at))
    for i, (name, v) in enumerate(values.items()):
        up, down = above + v.clip(min=0), below + v.clip(max=0)
        style: dict[str, Any] = {"fc": colour(i), "ec": "white", "linewidth": 0, "hatch": hatch(i)}
        ax.fill_between(at, above, up, label=literal(str(name)), **style)
        ax.fill_between(at, below, down, **style)
        above, below = up, down
    ax.plot(at, above + below, color="black", linewidth=1.5, label=total)
    handles, labels = ax.get_legend_handles_labels()
    # In the order of the stack.
    legend_outside(ax, handles=handles[::-1], labels=labels[::-1], fontsize="small")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.margins(x=0)
    if not below.any():
        ax.set_ylim(bottom=0)
    return ax
