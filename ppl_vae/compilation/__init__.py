"""Functions that run programs, compiled to graphs."""

from ppl_vae.compilation.graphs import Compiled, NotCompiledWarning
from ppl_vae.compilation.state import left_alone

__all__ = ["Compiled", "NotCompiledWarning", "left_alone"]
