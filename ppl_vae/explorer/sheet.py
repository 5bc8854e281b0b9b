"""A row of data on the page: images side by side, or a table with a column for each."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, Div, FixedTicker, Range1d
from bokeh.plotting import figure
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.explorer.display import Cells, Display, Images
from ppl_vae.explorer.texts import stylesheet

_GAP = 1
_SHADE = "63, 144, 218"


class Sheet:
    """A row of data, each with a name.

    Args:
        display: how data are shown.
        names: of the data.
        width: of the whole, in pixels of the screen.
        heads: of the columns of a table, if it has others, such as standard deviations.

    Attributes:
        model: what is on the page.
        target: what a script changes: the source of the picture, or the table.
    """

    def __init__(
        self, display: Display, names: Sequence[str], width: int, heads: Sequence[str] | None = None
    ) -> None:
        self.display, self.heads = display, tuple(heads or names)
        self.source: ColumnDataSource | None = None
        self.model: Any
        if isinstance(display, Cells):
            self.model = Div(text="", stylesheets=[stylesheet()], tags=[list(self.heads)])
            self.target: Any = self.model
            return
        rows, columns = display.size
        step = columns + _GAP
        across = step * len(names) - _GAP
        pixels = np.full((rows, across), 0xFFFFFFFF, np.uint32)
        self.source = ColumnDataSource(
            {"image": [pixels], "dw": [across], "dh": [rows]},
            tags=[{"across": across, "step": step}],
        )
        self.target = self.source
        shown = figure(
            width=width,
            height=round(width * rows / across) + (20 if any(names) else 4),
            x_range=Range1d(0, across),
            y_range=Range1d(rows, 0),
            tools="",
            toolbar_location=None,
            min_border=2,
            outline_line_color=None,
            styles={"outline": "none"},
        )
        shown.grid.visible = False
        shown.yaxis.visible = False
        shown.image_rgba("image", x=0, y=0, dw="dw", dh="dh", source=self.source)
        axis = shown.xaxis[0]
        centres = [step * k + columns / 2 for k in range(len(names))]
        axis.ticker = FixedTicker(ticks=centres)
        axis.major_label_overrides = dict(zip(centres, names, strict=True))
        axis.axis_line_color = axis.major_tick_line_color = None
        axis.major_tick_out = axis.major_tick_in = axis.major_label_standoff = 2
        axis.visible = any(names)
        self.model = shown

    def show(self, x: Tensor, spread: Tensor | None = None) -> None:
        """Show data ``(M, *event)``; of cells also how sure the last is."""
        tiles = self.display.tiles(x)
        if self.source is None:
            assert isinstance(self.display, Cells)
            texts = self.display.texts(x)
            if spread is not None:
                texts += self.display.spreads(spread)
                tiles = np.concatenate([tiles, np.zeros_like(tiles[:1])])
            self.model.text = table(self.display.names, self.heads, texts, tiles)
            return
        (shape,) = (image.shape for image in self.source.data["image"])
        sheet = np.full((*shape, 4), 255, np.uint8)
        columns = self.display.size[1]
        for place, tile in enumerate(tiles):
            left = place * (columns + _GAP)
            sheet[:, left : left + columns, :3] = tile
        self.source.data = {**self.source.data, "image": [rgba(sheet)]}


def rgba(pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return pixels ``(H, W, 4)`` as numbers ``(H, W)``."""
    numbers: NDArray[np.uint32] = np.ascontiguousarray(pixels).view("<u4")[..., 0]
    return numbers


def table(
    names: Sequence[str],
    heads: Sequence[str],
    texts: Sequence[Sequence[str]],
    shades: NDArray[np.uint8],
) -> str:
    """Return cells as HTML, a column for each datum; shades have shape ``(M, n)``."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    rows = []
    for j, name in enumerate(names):
        cells = "".join(
            f'<td style="background:rgba({_SHADE}, {0.75 * shade[j] / 255:.2f})">'
            f"{escape(text[j])}</td>"
            for text, shade in zip(texts, shades, strict=True)
        )
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return f'<table class="cells"><tr><th></th>{head}</tr>{"".join(rows)}</table>'


def sheet_of_images(display: Display) -> bool:
    """Return whether data are shown as images."""
    return isinstance(display, Images)
