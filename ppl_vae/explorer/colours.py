"""What the points of a map are coloured by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from ppl_vae.explorer.display import in_digits
from ppl_vae.plots.colours import colour

ABSENT = "#999999"
"""Of points without a value."""
MOST_NAMES = 12
"""How many categories a legend has, the most frequent."""
_SCALE = tuple(to_hex(c) for c in colormaps["viridis"](np.linspace(0, 1, 101)))


@dataclass(frozen=True, eq=False)
class Colouring:
    """A value for each datum.

    Args:
        name: what it is.
        values: numbers, or the codes of categories; NaN where there is none. Shape ``(N,)``.
        categories: their names by code; None for numbers.
        note: to be read beside the legend.
    """

    name: str
    values: NDArray[np.float64]
    categories: tuple[str, ...] | None = None
    note: str = ""

    @property
    def palette(self) -> tuple[str, ...]:
        """The colours; the last is of points without a value."""
        if self.categories is None:
            return (*_SCALE, ABSENT)
        ranks = {code: rank for rank, code in enumerate(self._by_frequency())}
        codes = range(len(self.categories))
        chosen = [ranks.get(code, code) if len(codes) > 10 else code for code in codes]
        return (*map(colour, chosen), ABSENT)

    def index(self) -> NDArray[np.uint16]:
        """Return the colour of each datum, a place in `palette`."""
        last = len(self.palette) - 1
        if self.categories is not None:
            place = self.values
        else:
            low, high = self._ends()
            place = np.clip((self.values - low) / (high - low or 1.0), 0, 1) * (last - 1)
        return np.where(np.isnan(self.values), last, np.nan_to_num(place).round()).astype(np.uint16)

    def colours(self) -> list[str]:
        """Return the colour of each datum."""
        palette = self.palette
        return [palette[i] for i in self.index().tolist()]

    def legend(self) -> str:
        """Return the legend, as HTML."""
        if self.categories is None:
            low, high = map(in_digits, self._ends())
            steps = ", ".join(_SCALE[::10])
            parts = [
                f'{low} <span class="scale" style="background:linear-gradient(to right, {steps})">'
                f"</span> {high}"
            ]
        else:
            shown = sorted(self._by_frequency()[:MOST_NAMES])
            parts = [_swatch(self.palette[code], self.categories[code]) for code in shown]
            if more := len(self._by_frequency()) - len(shown):
                parts.append(f"and {more} more")
        if np.isnan(self.values).any():
            parts.append(_swatch(ABSENT, "none"))
        if self.note:
            parts.append(escape(self.note))
        return '<span class="legend">' + " ".join(parts) + "</span>"

    def _ends(self) -> tuple[float, float]:
        """Return the values that have the first and the last colour, without outliers."""
        there = self.values[np.isfinite(self.values)]
        if not len(there):
            return 0.0, 1.0
        low, high = np.quantile(there, [0.02, 0.98])
        return float(low), float(high)

    def _by_frequency(self) -> list[int]:
        there = self.values[~np.isnan(self.values)].astype(int)
        counts = np.bincount(there, minlength=len(self.categories or ()))
        return [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]


def of_codes(name: str, codes: Sequence[int], categories: Sequence[object]) -> Colouring:
    """Return the colouring by codes 0, 1, ..., of which -1 is none."""
    values = np.asarray(codes, dtype=float)
    values[values < 0] = np.nan
    return Colouring(name, values, tuple(map(str, categories)))


def _swatch(colour: str, name: str) -> str:
    return f'<span class="swatch" style="background:{colour}"></span>{escape(name)}'
