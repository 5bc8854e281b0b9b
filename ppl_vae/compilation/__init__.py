"""Compiling functions that run programs to graphs."""

from ppl_vae.compilation.compiled_function import CompiledFunction, NotCompiledWarning
from ppl_vae.compilation.saved_state import preserved
from ppl_vae.resident_constants import map_constants

__all__ = ["CompiledFunction", "NotCompiledWarning", "preserved"]

map_constants()
