"""Old names of arguments and old calls, accepted for one version."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed_argument(old: str, new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that passes the keyword argument ``old`` on as ``new``, with a warning.

    The decorated function raises TypeError if it is given both.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if old in kwargs:
                name = function.__name__
                if new in kwargs:
                    raise TypeError(f"{name}: {old} is the old name of {new}; give {new} alone")
                warnings.warn(
                    f"{name}: {old} is deprecated; use {new}", DeprecationWarning, stacklevel=2
                )
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def former_call(
    is_former: Callable[..., bool], now: Callable[..., Any]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that passes calls of a function's former kind on to ``now``, warning.

    ``is_former`` is called with their arguments.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not is_former(*args, **kwargs):
                return function(*args, **kwargs)
            what = f"{function.__name__}: calls with data are deprecated"
            warnings.warn(f"{what}; use {now.__name__}", DeprecationWarning, stacklevel=2)
            found: R = now(*args, **kwargs)
            return found

        return call

    return decorate
