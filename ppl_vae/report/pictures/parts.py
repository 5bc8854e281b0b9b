"""What pictures are made of, and what they become."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae.report.evaluated_pair import Subject
from ppl_vae.report.measurements import Measured
from ppl_vae.report.program_runs import Runs

PER_INCH = 130


@dataclass(frozen=True)
class Picture:
    """One picture, or why there is none.

    Args:
        title: what it is of: a pair, or all of them.
        alt: what it shows, in words.
        png: the bytes; empty where there is none.
        reason: why there is none.
    """

    title: str
    alt: str
    png: bytes = b""
    reason: str = ""


@dataclass(frozen=True)
class Section:
    """Pictures of the same kind.

    Args:
        title: of the section.
        caption: how to read it.
        pictures: one per pair and latent, or one of all pairs.
    """

    title: str
    caption: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A pair with all that is known about it."""

    subject: Subject
    runs: Runs
    measured: Measured

    def images(self, x: Tensor, leading: int = 1) -> Any:
        """Return x as images on the CPU, with the first dimension split in rows if asked to."""
        shape = self.subject.data.image_shape
        if shape is None:
            raise NotImplementedError(
                f"the data are no images, of shape {self.subject.data.event_shape} each; if they "
                f"are, give image_shape="
            )
        return x.detach().cpu().reshape(*x.shape[:leading], *shape).numpy()

    def image_width(self) -> float:
        """Return width / height of an image, 1 where it is none."""
        shape = self.subject.data.image_shape
        return 1.0 if shape is None else shape[-1] / shape[-2]


def new_figure(width: int | float, height: int | float) -> tuple[Figure, Axes]:
    """Return a figure that pyplot knows nothing of."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def png(figure: Figure) -> bytes:
    """Return the figure as a file."""
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    # What wrote the file would be an address on the page.
    figure.savefig(
        file, dpi=PER_INCH, format="png", bbox_inches="tight", metadata={"Software": None}
    )
    return file.getvalue()


def literal(text: str) -> str:
    """Keep matplotlib from typesetting a name."""
    return text.replace("$", r"\$")
