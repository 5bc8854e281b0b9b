"""Temporary evaluation and training modes of modules."""

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
    """Put modules in evaluation mode; restore their modes and buffers on exit.

    No other thread runs programs meanwhile, see :func:`ppl_vae.process_state.exclusively`.
    """
    with exclusively(), kept_buffers(*modules), _evaluation_mode(*modules):
        yield


@contextmanager
def training(*programs: nn.Module) -> Iterator[None]:
    """Put programs in training mode; restore their modes on exit.

    A part in evaluation mode, such as a fixed encoder, of a program in training mode stays so.
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
    """Return whether ``torch.export`` is tracing, and values cannot be inspected."""
    return _exporting()


# is_exporting is new in torch 2.7.
_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


@contextmanager
def _traced(*modules: nn.Module) -> Iterator[None]:
    """Put modules in evaluation mode, without validation, for ``torch.export``."""
    with pyro.validation_enabled(False), _evaluation_mode(*modules):
        yield


def inference(method: Callable[Concatenate[M, A], R]) -> Callable[Concatenate[M, A], R]:
    """Run a method in evaluation mode and without gradients; ``torch.export`` can trace it.

    See :func:`evaluating`.
    """

    @wraps(method)
    def run(self: M, /, *args: A.args, **kwargs: A.kwargs) -> R:
        with (_traced if exporting() else evaluating)(self), torch.no_grad():
            return method(self, *args, **kwargs)

    return run


@contextmanager
def _evaluation_mode(*modules: nn.Module) -> Iterator[None]:
    modes = _modes(modules)
    try:
        _set(dict.fromkeys(modes, False))
        yield
    finally:
        _set(modes)


def _modes(modules: Iterable[nn.Module]) -> dict[nn.Module, bool]:
    return {part: part.training for module in modules for part in module.modules()}


def _set(modes: Mapping[nn.Module, bool]) -> None:
    for part, mode in modes.items():
        if part.training != mode:
            part.training = mode
