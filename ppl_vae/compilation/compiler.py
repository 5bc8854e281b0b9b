"""What shortens Inductor's first compilation on a machine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context

from ppl_vae import uniform_draws


@contextmanager
def compiler() -> Iterator[None]:
    """Make graphs in the body, while another thread compiles the loops of uniform draws."""
    with _vector_instructions_trusted(), ThreadPoolExecutor(1) as pool:
        # Settings of Inductor are a context's.
        pool.submit(copy_context().run, uniform_draws.load)
        yield


def _vector_instructions_trusted() -> AbstractContextManager:
    """Return a context in which Inductor does not test the processor's vector instructions.

    It would compile and load a program for each set of them, to see whether the compiler and torch
    have it, too. They have: an older compiler could not read torch's headers, and graphs are
    verified. ``TORCHINDUCTOR_VEC_ISA_OK`` decides otherwise.
    """
    from torch._inductor import config  # slow to import

    undecided = getattr(config.cpp, "vec_isa_ok", False) is None
    return config.patch({"cpp.vec_isa_ok": True}) if undecided else nullcontext()
