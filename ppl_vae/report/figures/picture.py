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
    """One picture with its content in words, or the reason why there is none.

    Its ``verdict`` is what it shows in a sentence above it.
    """

    title: str
    alt: str
    png: bytes = b""
    reason: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Section:
    """Pictures of one kind, and how to read them; many small ones stand closer."""

    title: str
    caption: str
    pictures: tuple[Picture, ...]
    small: bool = False


def new_axes(width: int | float, height: int | float) -> Axes:
    """Return the Axes of a figure that pyplot does not know of."""
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def png(ax: Axes) -> bytes:
    """Return the figure of some Axes as PNG."""
    figure = ax.figure
    assert isinstance(figure, Figure)
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    # By default the metadata name matplotlib and its address.
    figure.savefig(
        file, dpi=PER_INCH, format="png", bbox_inches="tight", metadata={"Software": None}
    )
    return file.getvalue()
