"""Modes of modules: evaluation and training, switched for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import pyro
import torch
from torch import nn

from ppl_vae.buffers import kept_buffers
from ppl_vae.process_state import exclusively

A = ParamSpec("A")
M = TypeVar("M", bound=nn.Module)
R = TypeVar("R")


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Within ``with``, modules are in evaluation mode; their modes and buffers stay as they were.

    No other thread runs programs meanwhile (:func:`ppl_vae.process_state.exclusively`).
    """
    with exclusively(), kept_buffers(*modules):
        modes = _modes(modules)
        try:
            for part in modes:
                if part.training:
                    part.training = False
            yield
        finally:
            _set(modes)


@contextmanager
def training(*programs: nn.Module) -> Iterator[None]:
    """Within ``with``, programs that are in evaluation mode are in training mode.

    In a program in training mode, a part that is not, such as a fixed encoder, stays so.
    """
    with exclusively():  # another thread may be evaluating the programs
        modes = _modes(programs)
        for program in programs:
            if not program.training:
                program.train()
    try:
        yield
    finally:
        with exclusively():
            _set(modes)


def exporting() -> bool:
    """Tell whether ``torch.export`` is tracing, and nothing can look at values."""
    return _exporting()


# Before torch 2.7 the two were one.
_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


@contextmanager
def _traced(*modules: nn.Module) -> Iterator[None]:
    """Within ``with``, modules are in evaluation mode and values unchecked, for ``torch.export``.

    Turns, generators and values of buffers are no part of a graph.
    """
    modes = _modes(modules)
    with pyro.validation_enabled(False):
        for part in modes:
            part.training = False
        try:
            yield
        finally:
            _set(modes)


def inference(method: Callable[Concatenate[M, A], R]) -> Callable[Concatenate[M, A], R]:
    """Run a module's method in evaluation mode and without gradients; see :func:`evaluating`.

    ``torch.export`` can trace it.
    """

    @wraps(method)
    def run(self: M, /, *args: A.args, **kwargs: A.kwargs) -> R:
        with (_traced if exporting() else evaluating)(self), torch.no_grad():
            return method(self, *args, **kwargs)

    return run


def _modes(modules: Iterable[nn.Module]) -> dict[nn.Module, bool]:
    return {part: part.training for module in modules for part in module.modules()}


def _set(modes: Mapping[nn.Module, bool]) -> None:
    for part, mode in modes.items():
        if part.training != mode:
            part.training = mode
