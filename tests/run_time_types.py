"""Types and shapes checked at run time, by beartype, with jaxtyping where a function names a shape.

The wrapper of jaxtyping, which binds a call's arguments and has them checked twice, takes some
twenty times as long as the check, and most functions have no shape for it to compare. Generators
are checked when they start.
"""

import dataclasses
import functools
import inspect
import types
import typing

import jaxtyping
from beartype import BeartypeConf, beartype

with_shapes = jaxtyping.jaxtyped
by_beartype = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def install():
    """Let jaxtyping's import hook decorate with :func:`jaxtyped`."""
    jaxtyping.jaxtyped = jaxtyped


def jaxtyped(thing=None, *, typechecker):
    """Do as ``jaxtyping.jaxtyped`` does, where a function is first called."""
    if thing is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if isinstance(thing, type) and dataclasses.is_dataclass(thing):
        made = vars(thing).get("__init__")
        if isinstance(made, types.FunctionType) and not hasattr(made, "__wrapped__"):
            thing.__init__ = switched(made, typechecker)
        return thing
    if not isinstance(thing, types.FunctionType):
        return with_shapes(thing, typechecker=typechecker)
    return switched(thing, typechecker) if thing.__annotations__ else thing


def checks_of(function, typechecker):
    """Return the function with its checks."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # names that are imported for static checkers only: jaxtyping skips these
        return with_shapes(function, typechecker=typechecker)
    if not any(map(names_a_shape, hints.values())):
        return beartyped(function, hints)
    if inspect.isgeneratorfunction(function):  # which runs after the call
        return with_shapes(function, typechecker=typechecker)
    return of_one_call(beartyped(function, hints))


def of_one_call(function):
    """Return a function whose named sizes are those of one call."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        __tracebackhide__ = True
        with with_shapes("context"):
            return function(*args, **kwargs)

    return call


def names_a_shape(hint):
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(names_a_shape, typing.get_args(hint)))


def beartyped(function, hints):
    as_written = function.__annotations__
    function.__annotations__ = hints
    checked = by_beartype(function)
    function.__annotations__ = as_written
    return checked


def switched(function, typechecker):
    """Return a function whose checks can be switched off."""
    checked, config = None, jaxtyping.config

    @functools.wraps(function)
    def call(*args, **kwargs):
        nonlocal checked
        __tracebackhide__ = True
        if config.jaxtyping_disable:
            return function(*args, **kwargs)
        if checked is None:
            checked = checks_of(function, typechecker)
        return checked(*args, **kwargs)

    return call
