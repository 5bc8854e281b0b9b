"""The pictures of the page."""

from ppl_vae.report.pictures.parts import Drawn, Picture, Section
from ppl_vae.report.pictures.sections import sections

__all__ = ["Drawn", "Picture", "Section", "sections"]
