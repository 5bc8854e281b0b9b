"""Types and shapes checked at run time, by beartype, with jaxtyping where a function names a shape.

The wrapper of jaxtyping, which binds a call's arguments and has them checked twice, takes some
twenty times as long as the check, and most functions have no shape for it to compare.
"""

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
    """Do as ``jaxtyping.jaxtyped`` does."""
    if thing is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if not isinstance(thing, types.FunctionType) or inspect.isgeneratorfunction(thing):
        return with_shapes(thing, typechecker=typechecker)
    try:
        hints = typing.get_type_hints(thing, include_extras=True)
    except Exception:  # names that are imported for static checkers only: jaxtyping skips these
        return with_shapes(thing, typechecker=typechecker)
    checked = beartyped(thing, hints)
    if checked is thing:  # nothing to check
        return thing
    if any(map(names_a_shape, hints.values())):
        # Sizes are those of one call, which is all that is left to do.
        checked = with_shapes(checked, typechecker=None)
    return switched(thing, checked)


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


def switched(function, checked):
    """Return a function whose checks can be switched off."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        __tracebackhide__ = True
        called = function if jaxtyping.config.jaxtyping_disable else checked
        return called(*args, **kwargs)

    return call
