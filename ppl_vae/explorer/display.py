"""How data are shown: images as tiles of pixels, tables and counts as cells with numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.pixels import Range, as_pixels
from ppl_vae.plots.colours import MISSING

if TYPE_CHECKING:
    from ppl_vae.tables import Column

MOST_CELLS = 24
"""Of more elements than these, those that vary most are shown."""
MOST_COLUMNS = 40
"""Of a table with more columns than these, the first are shown."""
_MISSING = tuple(int(MISSING[i : i + 2], 16) for i in (1, 3, 5))


@dataclass(frozen=True)
class Images:
    """Images of C channels, shape ``(C, H, W)``; a missing pixel is pale blue.

    Args:
        shape: ``(H, W)`` or ``(C, H, W)``.
        missing: whether any pixel may be missing, so that tiles have colours.
        black_and_white: the values that are black and white.
    """

    shape: tuple[int, ...]
    missing: bool = False
    black_and_white: Range = (0.0, 1.0)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a tile."""
        return self.shape[-2], self.shape[-1]

    @property
    def channels(self) -> int:
        """1 for grey tiles, 3 for tiles with colours."""
        return 3 if self.missing or (len(self.shape) == 3 and self.shape[0] == 3) else 1

    def tiles(self, x: Tensor) -> NDArray[np.uint8]:
        """Return data ``(M, *event)``, NaN where missing, as tiles ``(M, H, W, channels)``."""
        full = (1, *self.shape) if len(self.shape) == 2 else self.shape
        pixels = as_pixels(x.double(), self.black_and_white)
        values = np.moveaxis(pixels.reshape(len(x), *full).numpy(), 1, -1)
        grey = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8)
        if self.channels == 1:
            return grey
        coloured = grey if grey.shape[-1] == 3 else np.repeat(grey, 3, -1)
        absent = np.isnan(values).any(-1, keepdims=True)
        return np.where(absent, np.array(_MISSING, np.uint8), coloured)

    def elements(self) -> NDArray[np.intp]:
        """Return for each place ``(H, W)`` the elements of a flat datum there, ``(H, W, C)``."""
        full = (1, *self.shape) if len(self.shape) == 2 else self.shape
        return np.moveaxis(np.arange(math.prod(full)).reshape(full), 0, -1)


@dataclass(frozen=True, eq=False)
class Cells:
    """Elements of vectors, each with a name, as text on a shade that says how large it is.

    Args:
        names: of the elements that are shown.
        index: where these are in a datum.
        low: the values that have the palest shade, shape ``(n,)``.
        high: the values that have the darkest shade.
        columns: of a table; None for other data.
    """

    names: tuple[str, ...]
    index: NDArray[np.intp]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    columns: tuple[Column, ...] | None = None

    @classmethod
    def of(cls, x: Tensor, columns: Sequence[Column] | None = None) -> Cells:
        """Return the cells of data ``(N, *event)``, NaN where missing."""
        values = x.flatten(1).double()
        index = torch.arange(values.shape[1])
        if columns is not None:
            index = index[:MOST_COLUMNS]
        elif values.shape[1] > MOST_CELLS:
            centred = values - values.nanmean(0)
            index = centred.square().nanmean(0).nan_to_num().argsort(descending=True)[:MOST_CELLS]
            index = index.sort().values
        # torch's own has a limit of 2**24 values.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a column that is missing
            low, high = np.nanquantile(values[:, index].numpy(), [0.02, 0.98], 0)
        names = [str(columns[i].name) if columns else f"x{i + 1}" for i in index.tolist()]
        chosen = None if columns is None else tuple(columns[i] for i in index.tolist())
        return cls(tuple(names), index.numpy(), low, high, chosen)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a datum's cells."""
        return len(self.names), 1

    def tiles(self, x: Tensor) -> NDArray[np.uint8]:
        """Return the shades of data ``(M, *event)``, shape ``(M, n)``, 255 for the largest."""
        values = self._values(x)
        width = np.where(self.high > self.low, self.high - self.low, 1.0)
        shade = np.clip(np.nan_to_num((values - self.low) / width), 0, 1)
        if self.columns is not None:  # categories have no order
            shade[:, [column.kind == "categorical" for column in self.columns]] = 0
        return np.rint(255 * shade).astype(np.uint8)

    def texts(self, x: Tensor) -> list[list[str]]:
        """Return data ``(M, *event)`` as texts, ``M`` lists of ``n``; a missing one is empty."""
        return [[self._text(j, v) for j, v in enumerate(row)] for row in self._values(x).tolist()]

    def spreads(self, spread: Tensor) -> list[list[str]]:
        """Return as texts the standard deviations of numbers and probabilities of categories."""
        return [
            [self._spread(j, v) for j, v in enumerate(row)] for row in self._values(spread).tolist()
        ]

    def elements(self) -> NDArray[np.intp]:
        """Return for each place ``(n, 1)`` the element of a flat datum there, ``(n, 1, 1)``."""
        return self.index.reshape(-1, 1, 1)

    def _values(self, x: Tensor) -> NDArray[np.float64]:
        flat: NDArray[np.float64] = x.reshape(len(x), -1)[:, self.index].double().numpy()
        return flat

    def _categories(self, j: int) -> Sequence[Any] | None:
        column = None if self.columns is None else self.columns[j]
        return column.categories if column is not None and column.coded else None

    def _text(self, j: int, value: float) -> str:
        if math.isnan(value):
            return ""
        categories = self._categories(j)
        if categories is not None:
            return str(categories[min(max(round(value), 0), len(categories) - 1)])
        return in_digits(value)

    def _spread(self, j: int, value: float) -> str:
        if not math.isfinite(value):
            return ""
        return f"± {in_digits(value)}" if self._categories(j) is None else f"{100 * value:.0f} %"


Display = Images | Cells


def in_digits(value: float) -> str:
    """Return a number in three digits, or more before the point.

    Example:
        >>> in_digits(45321.7), in_digits(0.01234)
        ('45,322', '0.0123')
    """
    return f"{value:,.0f}" if 999.5 <= abs(value) < 1e9 else f"{value:.3g}"
