"""Functions that run programs, compiled to graphs."""

from ppl_vae.compilation.graphs import Compiled, NotCompiledWarning

__all__ = ["Compiled", "NotCompiledWarning"]
