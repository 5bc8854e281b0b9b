"""Names and numbers as they are written on plots, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from numpy.typing import NDArray

from ppl_vae.errors import reason


def dimension_names(count: int, names: Sequence[str] | None = None) -> list[str]:
    """Return names as they are given, or z_1, z_2, ... in mathtext."""
    return [f"$z_{{{i + 1}}}$" for i in range(count)] if names is None else list(map(str, names))


def legend_outside(ax: Axes, **options: Any) -> Legend:
    """Add a legend on the right of the Axes."""
    return ax.legend(loc="upper left", bbox_to_anchor=(1, 1), **options)


def literal(text: str) -> str:
    """Return text that matplotlib shows as it is: shortened, without mathtext and never hidden."""
    text = reason(text, 40).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def number(value: float, digits: int = 1) -> str:
    """Return a number with a proper minus sign, and none before zero."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "\N{MINUS SIGN}")


def numbers(values: Sequence[float] | NDArray) -> list[str]:
    """Return numbers with as many digits as tell them apart, 1 to 6 after the point."""
    for digits in range(1, 7):
        written = [number(float(value), digits) for value in values]
        if len(set(written)) == len({*map(float, values)}):
            break
    return written


def tick_indices(count: int, most: int = 7) -> NDArray:
    """Return at most ``most`` of the indices 0, ..., count - 1, with the first and the last.

    Equally spaced if at least 4 can be, and symmetric about the middle otherwise.
    """
    if count <= most:
        return np.arange(count)
    equal = [k for k in range(most, 3, -1) if (count - 1) % (k - 1) == 0]
    # Of the same parity as count, so that both have a middle or neither has.
    shown = equal[0] if equal else most - (most - count) % 2
    below = np.linspace(0, count - 1, shown)[: (shown + 1) // 2].round().astype(int)
    return np.unique([*below, *(count - 1 - below)])
