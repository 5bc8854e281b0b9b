"""Inductor's C++ compiler, with less to do before the first graph of a machine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context

from ppl_vae import uniform_draws


@contextmanager
def compiler() -> Iterator[None]:
    """Have graphs compiled in the body, and the loops of uniform draws in another thread.

    Inductor compiles and loads a program for each set of vector instructions that the processor
    has, to see whether the compiler and torch have them, too. They have: such a compiler could not
    read torch's headers, and graphs are verified. ``TORCHINDUCTOR_VEC_ISA_OK`` decides otherwise.
    """
    from torch._inductor import config  # slow to import

    trusted = config.cpp.vec_isa_ok
    settings = {"cpp.vec_isa_ok": True if trusted is None else trusted}
    with config.patch(settings), ThreadPoolExecutor(1) as pool:
        pool.submit(copy_context().run, uniform_draws.load)
        yield
