"""The figures of the page."""

from ppl_vae.report.figures.picture import Picture, Section
from ppl_vae.report.figures.sections import sections

__all__ = ["Picture", "Section", "sections"]
