"""Pictures and sections of the page, and the figures that they are made from."""

from __future__ import annotations

import io
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PER_INCH = 130


@dataclass(frozen=True)
class Picture:
    """One picture, or the reason why there is none.

    Args:
        title: what it is of: a pair, or all of them.
        alt: its content, in words.
        png: the bytes; empty if there is no picture.
        reason: why there is none.
    """

    title: str
    alt: str
    png: bytes = b""
    reason: str = ""


@dataclass(frozen=True)
class Section:
    """Pictures of one kind.

    Args:
        title: of the section.
        caption: how to read the pictures.
        pictures: one per pair and latent, or one of all pairs.
    """

    title: str
    caption: str
    pictures: tuple[Picture, ...]


def new_figure(width: int | float, height: int | float) -> tuple[Figure, Axes]:
    """Return a figure that pyplot does not know of."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def png(figure: Figure) -> bytes:
    """Return the figure as PNG."""
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    # By default the metadata name matplotlib and its address.
    figure.savefig(
        file, dpi=PER_INCH, format="png", bbox_inches="tight", metadata={"Software": None}
    )
    return file.getvalue()
