"""Where pictures are drawn."""

from __future__ import annotations

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ppl_vae.errors import describe


def axes_of(ax: Axes | None) -> Axes:
    """Return the Axes to draw in, the current ones if None; raise TypeError for anything else."""
    if ax is None:
        return plt.gca()
    if not isinstance(ax, Axes):
        raise TypeError(
            f"ax must be Axes of matplotlib, such as those of plt.subplots(), got {describe(ax)}"
        )
    return ax
