"""Methods of a pair that take NumPy arrays in the place of tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from itertools import chain, repeat
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from torch import nn

from ppl_vae.tensors import tensor_for

A = ParamSpec("A")
D = TypeVar("D")
M = TypeVar("M", bound=nn.Module)
R = TypeVar("R")


def of_arrays(
    method: Callable[Concatenate[M, D, A], R],
) -> Callable[Concatenate[M, D | np.ndarray, A], R]:
    """Let a method take arrays, which become tensors on the pair's device and in its dtype."""
    names = [
        "a further argument" if p.kind is p.VAR_POSITIONAL else p.name
        for p in inspect.signature(method).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
    ]

    @wraps(method)
    def run(self: M, /, *args: Any, **kwargs: Any) -> R:
        def tensor(name: str, value: Any) -> Any:
            return tensor_for(self, name, value) if isinstance(value, np.ndarray) else value

        places = chain(names[1:], repeat(names[-1]))
        args = tuple(map(tensor, places, args))
        return method(self, *args, **{name: tensor(name, value) for name, value in kwargs.items()})

    return run
