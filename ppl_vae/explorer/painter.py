"""The datum on which a mask is painted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import (
    Button,
    ColumnDataSource,
    FixedTicker,
    RadioButtonGroup,
    Range1d,
    Spinner,
)
from bokeh.plotting import figure
from torch import Tensor

from ppl_vae.explorer.display import Cells, Display
from ppl_vae.explorer.sheet import rgba
from ppl_vae.explorer.view import question, script
from ppl_vae.plots.colours import MISSING

_SIDE = 216
_HIDDEN = int.from_bytes([*(int(MISSING[i : i + 2], 16) for i in (1, 3, 5)), 255], "little")
_ROW = 18


class Painter:
    """A datum of which parts are hidden with the mouse.

    Attributes:
        mask: the question: its ``hidden`` has 1 for each place that is hidden, row by row.
    """

    def __init__(self, display: Display) -> None:
        self.display = display
        rows, columns = display.size
        below = np.arange(rows * columns) // columns >= rows / 2  # to have something to look at
        self.mask = question({"hidden": [below.astype(int).tolist()]})
        self.mask.name = "mask"
        hidden = np.where(below.reshape(rows, columns), _HIDDEN, 0).astype(np.uint32)
        self._datum = ColumnDataSource({"image": [np.zeros_like(hidden)]})
        self._overlay = ColumnDataSource({"image": [hidden]})
        self._texts = ColumnDataSource({"x": [], "y": [], "text": []})
        self._cells = isinstance(display, Cells)
        width = _SIDE if self._cells else round(_SIDE * min(1, columns / rows))
        self.model_of_datum = self._figure(rows, columns, width)
        self.model_of_datum.name = "painter"
        self.size = Spinner(title="brush", low=1, high=max(1, rows // 2), value=1, width=70)
        self.size.value = 1 if self._cells else max(1, rows // 8)
        self.size.visible = not self._cells
        self.mode = RadioButtonGroup(labels=["hide", "show"], active=0)
        self.buttons = self._buttons()

    @property
    def model(self) -> Any:
        """What is on the page."""
        return column(row(self.mode, self.size), self.model_of_datum, row(*self.buttons))

    def show(self, x: Tensor) -> None:
        """Show a datum, shape ``(1, *event)``."""
        rows, columns = self.display.size
        tile = self.display.tiles(x)[0].reshape(rows, columns, -1)
        pixels = np.full((rows, columns, 4), 255, np.uint8)
        if isinstance(self.display, Cells):
            share = tile.astype(float) / 255 * 0.75
            pixels[..., :3] = np.rint(255 + share * (np.array([63, 144, 218]) - 255))
            (texts,) = self.display.texts(x)
            places = [j + 0.5 for j in range(rows)]
            self._texts.data = {"x": [0.5] * rows, "y": places, "text": texts}
        else:
            pixels[..., :3] = tile
        self._datum.data = {"image": [rgba(pixels)]}

    def hidden(self, shape: tuple[int, ...]) -> Tensor | None:
        """Return what is hidden, boolean and of the shape of a datum; None if nothing is."""
        (places,) = self.mask.data["hidden"]
        if not any(places):
            return None
        found = torch.zeros(shape, dtype=torch.bool)
        chosen = self.display.elements()[np.array(places, bool).reshape(self.display.size)]
        found.view(-1)[torch.from_numpy(chosen.reshape(-1))] = True
        return found

    def _figure(self, rows: int, columns: int, width: int) -> Any:
        height = rows * _ROW if self._cells else round(width * rows / columns)
        made = figure(
            width=width + 60 if self._cells else width,
            height=height,
            x_range=Range1d(0, columns),
            y_range=Range1d(rows, 0),
            tools="",
            toolbar_location=None,
            min_border=2,
            outline_line_color="#ccc",
            styles={"outline": "none"},
        )
        made.grid.visible = made.xaxis.visible = False
        whole = {"x": 0, "y": 0, "dw": columns, "dh": rows}
        made.image_rgba("image", source=self._datum, **whole)
        made.yaxis.visible = self._cells
        if isinstance(self.display, Cells):
            made.text("x", "y", "text", source=self._texts, text_align="center",
                      text_baseline="middle", text_font_size="12px")  # fmt: skip
            axis = made.yaxis[0]
            ticks = [j + 0.5 for j in range(rows)]
            axis.ticker = FixedTicker(ticks=ticks)
            axis.major_label_overrides = dict(zip(ticks, self.display.names, strict=True))
            axis.axis_line_color = axis.major_tick_line_color = None
        made.image_rgba("image", source=self._overlay, **whole)
        return made

    def _buttons(self) -> list[Button]:
        names = {"nothing": "clear", "top": "top", "left": "left", "random": "random"}
        if self._cells:
            del names["left"]
        made = []
        for what, label in names.items():
            button = Button(label=label, width=54, margin=(5, 2, 5, 2))
            button.js_on_click(script(self._args(), f"pplvae.fill('{what}', {_PLACE})"))
            made.append(button)
        return made

    def _args(self) -> dict[str, Any]:
        rows, columns = self.display.size
        size = {"height": rows, "width": columns, "colour": _HIDDEN}
        return {"mask": self.mask, "overlay": self._overlay, **size}

    def connect(self, document: Document) -> None:
        """Let the pointer paint."""
        args = {"figure": self.model_of_datum, "brush": self.size, "mode": self.mode}
        self.model_of_datum.tags = [self.mask, self._overlay]
        code = f"pplvae.follow_painter(figure, {_PLACE_AND_TOOLS})"
        document.js_on_event("document_ready", script({**self._args(), **args}, code))


_PLACE = "mask, overlay, height, width, colour"
_PLACE_AND_TOOLS = "mask, overlay, height, width, brush, mode, colour"
