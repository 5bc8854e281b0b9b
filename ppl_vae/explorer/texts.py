"""What is written on the page, and the files that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any


@cache
def template(name: str) -> str:
    """Return a file of the page."""
    return (files("ppl_vae.explorer") / "templates" / name).read_text(encoding="utf-8")


def stylesheet() -> Any:
    """Return the style of text."""
    from bokeh.models import InlineStyleSheet  # of the extra

    return InlineStyleSheet(css=template("explorer.css"))


def header(title: str, data: str, alone: bool, given: Sequence[str] = ()) -> str:
    """Return the top of the page: what is shown, and what can be done.

    Args:
        title: of the page.
        data: in words.
        alone: whether there is no server.
        given: what places are decoded given without a server, for each pair that is conditional.
    """
    masks = "" if alone else " <b>Paint</b> on the datum at the bottom to hide parts of it."
    note = ""
    if alone:
        note = (
            "<p>This page needs no server. What it decodes was computed beforehand, on a grid and "
            "along each slider, the other dimensions at their average; the line between two data "
            "passes the nearest places of the grid. Masks are only in ppl-vae explore.</p>"
        )
        note += "".join(
            f"<p>{escape(each)}, whichever datum is chosen; ppl-vae explore uses that of the "
            f"chosen one.</p>"
            for each in given
        )
    return (
        f"<h1>{escape(title)}: {escape(data)}</h1><p><b>Move</b> over a map to decode the place "
        "under the pointer. <b>Click</b> to choose the nearest datum. <b>Drag</b> from one datum "
        f"to another to interpolate.{masks}</p>{note}"
    )
