"""Compiling functions that run programs to graphs."""

from ppl_vae.compilation.compiled_function import CompiledFunction, NotCompiledWarning
from ppl_vae.compilation.saved_state import preserved

__all__ = ["CompiledFunction", "NotCompiledWarning", "preserved"]
