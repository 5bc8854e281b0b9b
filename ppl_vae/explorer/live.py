"""Python's answers to the questions of the page."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

import torch
from bokeh.document import Document
from bokeh.models import ColumnDataSource
from torch import Tensor

from ppl_vae.explorer.explored import LOG_PX
from ppl_vae.explorer.page import Page
from ppl_vae.explorer.view import CLOUD, DRAWS, IMPUTATIONS, STEPS, View, answered

PARTICLES = 300
"""Of importance resampling, for an imputation."""
SAMPLES = 100
"""Of importance sampling, for log p(x) of each datum."""
_BLOCK = 0.1
"""Seconds that a part of the estimation of log p(x) may take, so that others do not wait."""


class Live:
    """The callbacks of one page in one browser.

    Args:
        page: its models.
        document: in which they are.
    """

    def __init__(self, page: Page, document: Document) -> None:
        self.page, self.document = page, document
        self._jobs: dict[int, Any] = {}
        self._sizes = dict.fromkeys(range(len(page.views)), 10)
        for view in page.views:
            view.question.on_change("data", partial(self._asked, view))
            view.elsewhere.on_change("active", partial(self._asked, view))
            view.colour.on_change("value", partial(self._coloured, view))
            view.plane_choice.on_change("value", partial(self._plane, view))
            view.legend.text = self._legend(view)
        self._answers_to(page.chosen, self._choose)
        self._answers_to(page.path, self._walk)
        if page.painter is not None:
            self._answers_to(page.painter.mask, self._impute)
        self._choose()
        self._walk()

    def _answers_to(self, question: ColumnDataSource, act: Callable[[], None]) -> None:
        def asked(attribute: str, old: Any, new: Any) -> None:
            try:
                act()
            finally:
                answered(question)

        question.on_change("data", asked)

    @property
    def index(self) -> int:
        """Which datum is chosen."""
        (index,) = self.page.chosen.data["index"]
        return int(index)

    def _asked(self, view: View, attribute: str, old: Any, new: Any) -> None:
        """Decode the place under the pointer, or at the sliders."""
        try:
            data = view.question.data
            (x,), (y,), (slide,) = data["x"], data["y"], data["slide"]
            explored = view.explored
            own = explored.means[self.index]
            base = own if view.elsewhere.active == 0 else explored.means.mean(0)
            z = base.clone()
            if slide is not None:
                z[view.slid] = torch.as_tensor(slide, dtype=z.dtype)
            elif x is not None:
                z = view.plane.lift(torch.tensor([x, y], dtype=z.dtype), base)
            self._show(view, z)
        finally:
            answered(view.question)

    def _show(self, view: View, z: Tensor) -> None:
        explored, at = view.explored, [self.index]
        x = explored.decode(z[None], at)
        spread = None if view.place.source is not None else explored.spread(z[None], at)
        view.place.show(x, spread)
        view.mark(view.cross, z[None])

    def _choose(self) -> None:
        """Show the chosen datum and its posterior."""
        i = self.index
        for view in self.page.views:
            explored = view.explored
            drawn, cloud = explored.posterior(i, DRAWS, CLOUD)
            shown = [explored.data([i]), explored.reconstruct([i]), drawn]
            view.datum.show(torch.cat(shown))
            view.datum_title.text = _title(explored.caption(i), "datum, guess at the mean of "
                                           "q(z | x), and at draws of q(z | x)")  # fmt: skip
            view.mark(view.ring, explored.means[[i]])
            view.mark(view.cloud, cloud)
            self._show(view, explored.means[i])
            for slider, d in zip(view.sliders, view.slid, strict=True):
                slider.value = min(max(float(explored.means[i, d]), slider.start), slider.end)
        if self.page.painter is not None:
            self.page.painter.show(self.page.views[0].explored.data([i]))
            self._impute()

    def _walk(self) -> None:
        """Show what lies between two data."""
        (a,), (b,) = self.page.path.data["a"], self.page.path.data["b"]
        for view in self.page.views:
            explored = view.explored
            between = explored.interpolate(int(a), int(b), STEPS)
            ends = explored.data([int(a), int(b)])
            view.path.show(torch.cat([ends[:1], between, ends[1:]]))
            here, there = (explored.caption(int(k)) for k in (a, b))
            view.path_title.text = _title(f"from {here} to {there}")
            view.mark(view.line, explored.means[[int(a), int(b)]])

    def _impute(self) -> None:
        """Fill what is hidden of the chosen datum."""
        painter = self.page.painter
        if painter is None:
            return
        for view in self.page.views:
            explored = view.explored
            x = explored.data([self.index])
            hidden = painter.hidden(tuple(x.shape[1:]))
            name = f"{explored.name}: " if len(self.page.views) > 1 else ""
            if hidden is None:
                view.imputed_title.text = _title(f"{name}nothing is hidden")
                view.imputed.model.visible = False
                continue
            try:
                found = explored.impute(self.index, hidden, IMPUTATIONS, PARTICLES)
            except NotImplementedError as error:
                view.imputed_title.text = _title(f"{name}not imputed", str(error))
                view.imputed.model.visible = False
                continue
            seen = x.masked_fill(hidden, torch.nan)
            view.imputed.show(torch.cat([seen, found.guess, found.draws]))
            view.imputed.model.visible = True
            share = 100 * hidden.double().mean().item()
            what = "what is seen, the best guess given it, and draws"
            view.imputed_title.text = _title(
                f"{name}{share:.0f} % hidden", "; ".join([what, *found.caveats])
            )

    def _coloured(self, view: View, attribute: str, old: Any, new: Any) -> None:
        self._colour(view)

    def _colour(self, view: View) -> None:
        name = view.colour.value
        if name == LOG_PX:
            view.paint(view.explored.log_px_colouring().colours())
            number = self.page.views.index(view)
            if number not in self._jobs and view.explored.log_px.isnan().any():
                step = partial(self._estimate, view)
                self._jobs[number] = self.document.add_periodic_callback(step, 20)
        else:
            view.paint(view.coloured[name].colours())
        view.legend.text = self._legend(view)

    def _legend(self, view: View) -> str:
        if view.colour.value == LOG_PX:
            return view.explored.log_px_colouring().legend()
        return view.coloured[view.colour.value].legend()

    def _estimate(self, view: View) -> None:
        """Estimate log p(x) of some more data."""
        number, unknown = self.page.views.index(view), view.explored.log_px.isnan()
        some = unknown.nonzero()[: self._sizes[number], 0].tolist()
        if some:
            start = time.perf_counter()
            view.explored.estimate(some, SAMPLES)
            factor = _BLOCK / max(time.perf_counter() - start, 1e-3)
            self._sizes[number] = max(1, min(200, int(len(some) * min(2.0, factor))))
        if not view.explored.log_px.isnan().any():
            self.document.remove_periodic_callback(self._jobs.pop(number))
        if view.colour.value == LOG_PX:
            self._colour(view)

    def _plane(self, view: View, attribute: str, old: Any, new: Any) -> None:
        view.plane = view.explored.plane(new)
        view.draw_map()
        self._choose()
        self._walk()


def _title(what: str, more: str = "") -> str:
    return f"<h3>{escape(what)}</h3>" + (f"<p>{escape(more)}</p>" if more else "")
