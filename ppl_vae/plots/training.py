"""Training over time: curves, and what the ELBO was made of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from ppl_vae.plots.arrays import array, finite, same_length
from ppl_vae.plots.axes import axes_of
from ppl_vae.plots.colours import colour, line


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
            shape ``(T, 2)``. Values that are not finite are left out, as gaps, and the legend says
            how many: a run that diverged is seen to have diverged.
        xlabel: what the steps are.
        ylabel: what the values are and their unit.
        ax: where to draw; the current Axes if not given.

    Raises:
        ValueError: if there is no curve, or one has another shape, a step that is not finite or no
            finite value.
    """
    _some_entries("curves", "history", history)
    drawn = {}
    for name, given in history.items():
        values = array("curves", f"history[{name!r}]", given, 1, 2)
        if values.ndim == 2 and values.shape[1] != 2:
            raise ValueError(
                f"curves: history[{name!r}] must have shape (T,) or (T, 2), of steps and values, "
                f"got {values.shape}"
            )
        if values.ndim == 1:
            values = np.column_stack([np.arange(len(values)), values])
        finite("curves", f"steps of history[{name!r}]", values[:, 0])
        seen = np.isfinite(values[:, 1])
        if not seen.any():
            raise ValueError(f"curves: history[{name!r}] has no finite value")
        lost = len(seen) - seen.sum()
        label = str(name) + (f" ({lost} not finite)" if lost else "")
        drawn[label] = values[:, 0], np.where(seen, values[:, 1], np.nan)
    ax = axes_of(ax)
    for i, (label, (steps, values)) in enumerate(drawn.items()):
        ax.plot(steps, values, line(i), color=colour(i), label=label)
        # A value between gaps is no line: it needs a mark to be seen.
        seen = np.isfinite(values)
        alone = seen & ~np.append(seen[1:], False) & ~np.append(False, seen[:-1])
        if alone.any():
            ax.plot(steps[alone], values[alone], "o", color=colour(i), markersize=4)
    if all((steps == np.round(steps)).all() for steps, _ in drawn.values()):
        ax.locator_params(axis="x", integer=True)  # there is no step between two
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.legend(fontsize="small")
    return ax


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

    The negative ELBO is reconstruction + KL, and the KL mutual information + total correlation +
    dimension-wise KL (Chen et al. 2018, arXiv 1802.04942, equation 2). What is above 0 is stacked
    upwards from 0 and what is below, such as the reconstruction term of a density, downwards; the
    black line is the sum.

    Args:
        terms: name -> values, shape ``(T,)``, from the bottom to the top.
        steps: where along the axis, ascending, shape ``(T,)``; 0, 1, ... if not given.
        xlabel: what the steps are.
        ylabel: the unit of the terms.
        total: what the sum is, such as ``"NELBO"``.
        ax: where to draw; the current Axes if not given.

    Raises:
        ValueError: if there is no term, the lengths differ, or a value is not finite.
    """
    _some_entries("stack", "terms", terms)
    values = {name: finite("stack", f"terms[{name!r}]", v, 1) for name, v in terms.items()}
    count = len(next(iter(values.values())))
    for name, v in values.items():
        same_length("stack", count, "the steps", **{f"terms[{name!r}]": v})
    at = np.arange(count) if steps is None else finite("stack", "steps", steps, 1)
    same_length("stack", count, "the values", steps=at)
    if (np.diff(at) <= 0).any():
        raise ValueError("stack: steps must ascend")
    if count == 1:  # an area needs two ends
        at = at[0] + np.array([-0.5, 0.5])
        values = {name: np.repeat(v, 2) for name, v in values.items()}
    ax = axes_of(ax)
    above, below = np.zeros(len(at)), np.zeros(len(at))
    for i, (name, v) in enumerate(values.items()):
        up, down = above + v.clip(min=0), below + v.clip(max=0)
        for start, end in ((above, up), (below, down)):
            ax.fill_between(
                at,
                start,
                end,
                facecolor=colour(i),
                edgecolor="white",
                linewidth=0,
                hatch=("", "//", "..", "xx")[i % 4],
                label=str(name) if start is above else None,
            )
        above, below = up, down
    ax.plot(at, above + below, color="black", linewidth=1.5, label=total)
    handles, labels = ax.get_legend_handles_labels()
    # From top to bottom, as the terms are.
    ax.legend(
        handles[::-1], labels[::-1], fontsize="small", loc="upper left", bbox_to_anchor=(1, 1)
    )
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.margins(x=0)
    if not below.any():
        ax.set_ylim(bottom=0)
    return ax


def _some_entries(owner: str, name: str, value: Mapping) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{owner}: {name} must map names to values, got {type(value).__name__}; "
            f"write {{'loss': values}}"
        )
    if not value:
        raise ValueError(f"{owner}: {name} is empty; there is nothing to draw")
