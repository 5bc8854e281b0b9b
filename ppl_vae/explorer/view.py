"""The models of one pair on the page: its map, and what is decoded from it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from html import escape
from typing import Any

import numpy as np
from bokeh.document import Document
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    Div,
    RadioButtonGroup,
    Range1d,
    ResetTool,
    Select,
    Slider,
    WheelZoomTool,
    ZoomInTool,
    ZoomOutTool,
)
from bokeh.plotting import figure
from torch import Tensor

from ppl_vae.explorer.display import Images
from ppl_vae.explorer.explored import LOG_PX, Explored
from ppl_vae.explorer.plane import PLANES
from ppl_vae.explorer.sheet import Sheet
from ppl_vae.explorer.texts import stylesheet

SLIDERS = 6
STEPS = 9
"""Data decoded on a line, both ends included."""
DRAWS = 6
"""Decoded draws of a posterior, or of what is hidden."""
IMPUTATIONS = 4
"""Imputations that are drawn."""
CLOUD = 100
"""Draws of a posterior that are points on the map."""
MAP = 420
SIDE = 210
WIDTH = MAP + SIDE + 10
IMPUTED = 390


class View:
    """The models of one pair.

    Args:
        explored: the pair.
        how: the plane of the map.
        number: of the view on the page, in the names of its models.
        alone: whether there is no server.

    Attributes:
        question: where the pointer is, or what the sliders say.
    """

    def __init__(self, explored: Explored, how: str, number: int, *, alone: bool) -> None:
        self.explored, self.how, self.number = explored, how, number
        self.plane = explored.plane(how)
        self.coloured = explored.colourings()
        display = explored.display
        self.question = question({"x": [None], "y": [None], "slide": [None]})
        self.points = ColumnDataSource({"x": [], "y": [], "colour": []})
        self.prior = ColumnDataSource({"x": [], "y": []})
        self.cloud = ColumnDataSource({"x": [], "y": []})
        self.ring = ColumnDataSource({"x": [], "y": []})
        self.cross = ColumnDataSource({"x": [], "y": []})
        self.line = ColumnDataSource({"x": [], "y": []})
        self._prior_draws = explored.prior_draws()
        names = [*self.coloured, LOG_PX]
        self.colour = Select(title="coloured by", options=names, value=names[0], width=200)
        self.legend = text()
        dims = explored.means.shape[1]
        words = {"pca": "principal components", "kl": "largest KL"}
        self.plane_choice = Select(
            title="map",
            options=[(name, words[name]) for name in PLANES],
            value=how,
            width=190,
            visible=dims > 2,
        )
        self.about_plane = text(width=MAP)
        self.map = self._map()
        self.here = text("<h3>here</h3>")
        is_image = isinstance(display, Images)
        self.place = Sheet(
            display,
            [""] if is_image else ["here", ""],
            SIDE,
            ["here"] if alone else ["here", "sd, p"],
        )
        self.datum_title = text(width=WIDTH)
        drawn = [f"draw {k + 1}" for k in range(DRAWS)]
        self.datum = Sheet(display, ["datum", "guess", *drawn], WIDTH)
        self.path_title = text("<h3>drag from one datum to another</h3>", width=WIDTH)
        along = [f"t = {Fraction(k, STEPS - 1)}" for k in range(STEPS)]
        self.path = Sheet(display, ["datum", *along, "datum"], WIDTH)
        self.imputed_title = text(width=IMPUTED)
        # What is hidden has a colour of its own.
        filled = replace(display, missing=True) if isinstance(display, Images) else display
        self.imputed = Sheet(filled, ["seen", "guess", *drawn[:IMPUTATIONS]], IMPUTED)
        self.sliders = self._sliders()
        self.elsewhere = RadioButtonGroup(
            labels=["of the datum", "average"], active=0, width=SIDE, visible=dims > 2
        )
        self.elsewhere_title = text("<p>other dimensions</p>")
        self.elsewhere_title.visible = dims > 2
        for name in ("question", "points", "map", "ring"):
            getattr(self, name).name = f"{name} {number}"
        for name in ("place", "datum", "path", "imputed"):
            getattr(self, name).target.name = f"{name} {number}"
        self.draw_map()
        self.paint(self.coloured[names[0]].colours() if self.coloured else [])

    @property
    def heading(self) -> Div:
        """Name and description of the pair, with what was warned of."""
        warned = "".join(f'<p class="warning">{escape(w)}</p>' for w in self.explored.warnings)
        return text(
            f"<h2>{escape(self.explored.name)}</h2><p>{escape(self.explored.title())}</p>{warned}",
            width=WIDTH,
        )

    def draw_map(self) -> None:
        """Put data and prior on the plane, and the ranges around them."""
        x, y = _xy(self.plane.project(self.explored.means))
        prior = self.plane.project(self._prior_draws)
        colours = self.points.data["colour"]
        colours = colours if len(colours) == len(x) else ["#888"] * len(x)
        self.points.data = {"x": x, "y": y, "colour": list(colours)}
        self.prior.data = dict(zip("xy", _xy(prior), strict=True))
        all_x, all_y = np.concatenate([x, _xy(prior)[0]]), np.concatenate([y, _xy(prior)[1]])
        low, high = (np.array([np.quantile(a, q) for a in (all_x, all_y)]) for q in (0.005, 0.995))
        low = np.minimum(low, [x.min(), y.min()])
        high = np.maximum(high, [x.max(), y.max()])
        middle, half = (low + high) / 2, max((high - low).max(), 1e-6) * 0.53  # of equal scale
        for axis, centre in zip((self.map.x_range, self.map.y_range), middle, strict=True):
            axis.start, axis.end = float(centre - half), float(centre + half)
            axis.reset_start, axis.reset_end = axis.start, axis.end
        self.map.xaxis.axis_label, self.map.yaxis.axis_label = self.plane.names
        self.about_plane.text = (
            f"<p>Each point is the mean of q(z | x) of a datum; grey are draws from the prior, "
            f"black draws of q(z | x) of the chosen datum. The plane is {self.plane.words}.</p>"
        )

    def paint(self, colours: list[str]) -> None:
        """Colour the points."""
        self.points.data = {**self.points.data, "colour": colours or ["#888"] * len(self.explored)}

    def mark(self, source: ColumnDataSource, z: Tensor) -> None:
        """Put latents ``(M, D)`` on the map."""
        x, y = _xy(self.plane.project(z))
        source.data = {"x": x, "y": y}

    def ends(self, d: int) -> tuple[float, float]:
        """Return the smallest and largest value of a dimension's slider."""
        z = self.explored.draws[:, d]
        low, high = float(z.min()), float(z.max())
        return (low, high) if high > low else (low - 1, high + 1)

    @property
    def slid(self) -> list[int]:
        """The dimensions that have a slider, the most informative first."""
        return [int(d) for d in self.explored.order[:SLIDERS]]

    def _sliders(self) -> list[Slider]:
        made = []
        for d in self.slid:
            low, high = self.ends(d)
            kl = self.explored.kl[d]
            nats = "" if kl.isnan() else f" ({kl:.2f} nats)"
            value = float(self.explored.means[0, d].clamp(low, high))
            made.append(
                Slider(
                    start=low,
                    end=high,
                    value=value,
                    step=(high - low) / 100,
                    title=f"z{d + 1}{nats}",
                    format="0.00",
                    width=SIDE - 12,
                )
            )
        return made

    def _map(self) -> Any:
        made = figure(
            width=MAP,
            height=MAP,
            x_range=Range1d(0, 1),
            y_range=Range1d(0, 1),
            tools="",
            toolbar_location="above",
            min_border=2,
            styles={"outline": "none"},
        )
        wheel = WheelZoomTool(modifiers="ctrl", description="zoom: Ctrl and wheel, or pinch")
        made.add_tools(wheel, ZoomInTool(), ZoomOutTool(), ResetTool())
        made.toolbar.active_scroll, made.toolbar.active_drag = wheel, None
        made.toolbar.logo = None
        made.grid.grid_line_color = "#eee"
        made.scatter("x", "y", source=self.prior, size=3, color="#d4d4d4")
        made.scatter("x", "y", source=self.points, size=6, color="colour", line_color=None)
        made.scatter("x", "y", source=self.cloud, size=3, color="black", alpha=0.5)
        made.line("x", "y", source=self.line, line_color="black", line_width=2)
        ring = {"size": 13, "fill_color": None, "line_color": "black", "line_width": 2}
        made.scatter("x", "y", source=self.ring, **ring)
        made.scatter("x", "y", source=self.cross, size=10, marker="x", color="black", line_width=2)
        return made

    def connect(self, document: Document, chosen: ColumnDataSource, path: ColumnDataSource) -> None:
        """Let pointer and sliders ask their questions."""
        args = {
            "map": self.map,
            "points": self.points,
            "question": self.question,
            "chosen": chosen,
            "path": path,
            "line": self.line,
        }
        self.map.tags = list(args.values())[1:]  # else they would be no part of the document
        code = "pplvae.follow_map(map, points, question, chosen, path, line)"
        document.js_on_event("document_ready", script(args, code))
        asked = {"question": self.question, "sliders": self.sliders}
        for slider in self.sliders:
            slider.js_on_change("value", script(asked, "pplvae.slide(question, sliders)"))


def text(html: str = "", **options: Any) -> Div:
    """Return a piece of text."""
    return Div(text=html, stylesheets=[stylesheet()], **options)


def _xy(points: Tensor) -> tuple[Any, Any]:
    x, y = points.double().numpy().T
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def script(args: dict[str, Any], code: str) -> CustomJS:
    """Return what the browser does, with models by name."""
    # Old versions of Bokeh take a list that is met twice for one that contains itself.
    own = {name: list(value) if isinstance(value, list) else value for name, value in args.items()}
    return CustomJS(args=own, code=code)


def question(data: dict[str, Any]) -> ColumnDataSource:
    """Return what the browser asks, and Python answers."""
    made = ColumnDataSource(data, tags=[0])
    made.js_on_change("tags", CustomJS(code="pplvae.answered(cb_obj)"))
    return made


def answered(question: ColumnDataSource) -> None:
    """Tell the browser that a question was answered, so that it asks the next."""
    question.tags = [question.tags[0] + 1]
