"""The page without a server: everything that it shows is computed beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from bokeh.document import Document
from bokeh.embed import file_html
from bokeh.models import ColumnDataSource
from bokeh.resources import INLINE
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.explorer.display import Cells, Images
from ppl_vae.explorer.explored import LOG_PX, Explored
from ppl_vae.explorer.live import SAMPLES
from ppl_vae.explorer.page import Page
from ppl_vae.explorer.view import DRAWS, STEPS, View, script

CLOUD = 20
"""Draws of each posterior that are points on the map."""
SLIDE_STEPS = 21
MOST_VALUES = 7_000_000
"""Limit on the values of data, reconstructions and draws; a byte each."""
_BLOCK = 100


def html(pairs: Sequence[Explored], how: str, grid: int) -> str:
    """Return the page."""
    page = Page(pairs, how, alone=True)
    document = Document()
    for view in page.views:
        _fill(page, view, grid)
    page.add_to(document)
    written: str = file_html(
        document,
        resources=INLINE,
        title=document.title,
        template=document.template,
        template_variables=document.template_variables,
    )
    return written


def _fill(page: Page, view: View, grid: int) -> None:
    """Compute what one view shows, and let scripts show it."""
    explored = view.explored
    for block in torch.arange(len(explored)).split(_BLOCK):
        explored.estimate(block.tolist(), SAMPLES)
    view.coloured[LOG_PX] = explored.log_px_colouring()
    values = _values(view, grid)
    _colours(view)
    args = {
        "values": values,
        "points": view.points,
        "ring": view.ring,
        "cross": view.cross,
        "draws": view.cloud,
        "place": view.place.target,
        "datum": view.datum.target,
        "path": view.path.target,
        "datum_title": view.datum_title,
        "path_title": view.path_title,
        "legend": view.legend,
        "sliders": view.sliders,
    }
    fixed = "pplvae.fixed."
    for source, code in (
        (view.question, "place(cb_obj, values, place, cross, sliders)"),
        (page.chosen, "choose(cb_obj, values, points, datum, ring, draws, datum_title)"),
        (page.path, f"walk(cb_obj, values, points, path, {STEPS}, path_title)"),
    ):
        source.js_on_change("data", script(args, fixed + code))
    code = "colour(cb_obj.value, points, legend)"
    view.colour.js_on_change("value", script(args, fixed + code))


def _values(view: View, grid: int) -> ColumnDataSource:
    """Return the tiles of all that can be shown."""
    explored, display = view.explored, view.explored.display
    middle = explored.means.mean(0)
    ends = [(r.start, r.end) for r in (view.map.x_range, view.map.y_range)]
    x, y = (torch.linspace(a, b, grid, dtype=middle.dtype) for a, b in ends)
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
    on_grid = explored.decode(view.plane.lift(places, middle), [0])
    slides, slider_ends = [], []
    for d, slider in zip(view.slid, view.sliders, strict=True):
        low, high = view.ends(d)
        z = middle.expand(SLIDE_STEPS, -1).clone()
        z[:, d] = torch.linspace(low, high, SLIDE_STEPS, dtype=middle.dtype)
        slides.append(explored.decode(z, [0]))
        slider_ends.append((low, high))
        slider.value = min(max(float(middle[d]), low), high)
    size = display.tiles(on_grid[:1]).size
    draws = next((k for k in (DRAWS, 2, 0) if len(explored) * (2 + k) * size <= MOST_VALUES), 0)
    stored = max(1, min(len(explored), MOST_VALUES // ((2 + draws) * size)))
    drawn, clouds = [], []
    for i in range(len(explored)):
        x_drawn, z = explored.posterior(i, max(draws, 1), CLOUD)
        drawn += [x_drawn[:draws]] if i < stored else []
        clouds.append(view.plane.project(z))
    index = range(stored)
    kinds = {
        "grid": on_grid,
        "slides": torch.cat(slides),
        "data": explored.data(index),
        "reconstructions": explored.reconstruct(index),
        "draws": torch.cat(drawn),
    }
    cloud = torch.cat(clouds).float()
    about: dict[str, Any] = {
        "tile": size,
        "size": display.size,
        "channels": display.channels if isinstance(display, Images) else 1,
        "grid": {"n": grid, "x": ends[0], "y": ends[1]},
        "slides": {
            "ends": slider_ends,
            "steps": SLIDE_STEPS,
            "start": [slider.value for slider in view.sliders],
        },
        "stored": stored,
        "draws": draws,
        "cloud": CLOUD,
        "captions": [explored.caption(i) for i in range(len(explored))],
        "texts": None,
    }
    if isinstance(display, Cells):
        about["names"] = list(display.names)
        about["texts"] = {kind: display.texts(x) for kind, x in kinds.items()}
    arrays = {kind: [_flat(display.tiles(x))] for kind, x in kinds.items()}
    arrays |= {f"cloud_{a}": [cloud[:, k].contiguous().numpy()] for k, a in enumerate("xy")}
    _start(view, kinds, draws)
    return ColumnDataSource(arrays, tags=[about])


def _start(view: View, kinds: dict[str, Tensor], draws: int) -> None:
    """Show the first datum."""
    explored = view.explored
    view.place.show(kinds["reconstructions"][:1])
    view.datum.show(
        torch.cat([kinds["data"][:1], kinds["reconstructions"][:1], kinds["draws"][:draws]])
    )
    view.datum_title.text = f"<h3>{explored.caption(0)}</h3>"
    view.mark(view.ring, explored.means[:1])


def _colours(view: View) -> None:
    """Put all colourings into the points."""
    data = dict(view.points.data)
    legends = {}
    for name, colouring in view.coloured.items():
        index = colouring.index()
        data[f"colour {name}"] = index
        legends[name] = {"palette": colouring.palette, "legend": colouring.legend()}
    view.points.data = data
    view.points.tags = [legends]
    view.colour.options = list(view.coloured)
    view.legend.text = view.coloured[view.colour.value].legend()


def _flat(tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(tiles).reshape(-1)
