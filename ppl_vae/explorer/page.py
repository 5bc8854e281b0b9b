"""The page as a document of Bokeh, answered by Python or by what was computed beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bokeh.document import Document
from bokeh.layouts import column, row
from jinja2 import Environment
from torch import Tensor

from ppl_vae.explorer.explored import Explored
from ppl_vae.explorer.painter import Painter
from ppl_vae.explorer.texts import header, template
from ppl_vae.explorer.view import IMPUTED, SIDE, WIDTH, View, question, text


class Page:
    """The models on the page.

    Args:
        pairs: of the same data.
        how: the plane of the maps.
        alone: whether there is no server.

    Attributes:
        chosen: which datum is chosen.
        path: between which data the line is.
    """

    def __init__(self, pairs: Sequence[Explored], how: str, *, alone: bool) -> None:
        self.alone = alone
        self.views = [View(explored, how, k, alone=alone) for k, explored in enumerate(pairs)]
        self.chosen = question({"index": [0]})
        self.path = question({"a": [0], "b": [_another(pairs[0])]})
        self.chosen.name, self.path.name = "chosen", "path"
        self.painter = None if alone else Painter(pairs[0].display)

    def add_to(self, document: Document) -> None:
        """Add all models to a document."""
        first = self.views[0].explored.inputs
        names = ", ".join(view.explored.name for view in self.views)
        of_tensor = isinstance(first.data.source, Tensor)
        document.title = names if of_tensor else f"{names} on {first.data.name}"
        document.template = Environment().from_string(template("page.html"))
        document.template_variables.update(script=template("explorer.js"), alone=self.alone)
        given = [each for view in self.views if (each := view.explored.condition(0)) is not None]
        top = text(header(document.title, str(first.data), self.alone, given), width=1000)
        maps = [self._map(view) for view in self.views]
        below = [self._sheets(view) for view in self.views]
        if len(self.views) == 1:
            body = row(maps[0], column(*below[0], *self._masks()), spacing=24)
        else:
            columns = [column(*sheets, width=WIDTH) for sheets in below]
            rows = [row(*maps, spacing=24), row(*columns, spacing=24)]
            body = column(*rows, *self._masks())
        for view in self.views:
            view.connect(document, self.chosen, self.path)
        if self.painter is not None:
            self.painter.connect(document)
        document.add_root(column(top, body, name="page", margin=12))

    def _map(self, view: View) -> Any:
        choices = row(view.colour, view.plane_choice)
        view.plane_choice.visible &= not self.alone
        view.elsewhere.visible &= not self.alone
        view.elsewhere_title.visible &= not self.alone
        others = [view.elsewhere_title, view.elsewhere]
        side = column(view.here, view.place.model, *others, *view.sliders, width=SIDE)
        return column(
            view.heading,
            row(column(choices, view.map, view.legend, view.about_plane), side, spacing=10),
            width=WIDTH,
        )

    def _sheets(self, view: View) -> list[Any]:
        return [view.datum_title, view.datum.model, view.path_title, view.path.model]

    def _masks(self) -> list[Any]:
        if self.painter is None:
            return []
        imputed = [column(v.imputed_title, v.imputed.model, width=IMPUTED) for v in self.views]
        return [
            text("<h3>paint on the datum to hide parts of it</h3>"),
            row(self.painter.model, *imputed, spacing=16),
        ]


def _another(explored: Explored) -> int:
    """Return the first datum of another class than datum 0, if there are classes."""
    labels = explored.inputs.labels
    other = [] if labels is None else (labels != labels[0]).nonzero()[:1, 0].tolist()
    return int(other[0]) if other else 1
