"""Constructor arguments as a configuration sees them: their kinds, and values as plain data."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Union

import numpy as np
from torch import nn

from ppl_vae.constructor import parameters
from ppl_vae.errors import quoted, reason
from ppl_vae.io.errors import ConfigError, brief, suggestion
from ppl_vae.io.format import CONFIG_DEPTH, CONFIG_ENTRIES

Kind = Literal["value", "part", "parts", "activation", "unknown", "none"]
PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor.

    ``kind`` says what a configuration may hold there: a plain ``value`` of type ``hint``, a
    ``part`` (a mapping with a class), a list of ``parts``, or the name of an ``activation``. It is
    ``unknown`` without a type hint, and ``none`` for a type that cannot be written, like a tensor.
    """

    name: str
    kind: Kind
    hint: Any
    default: object

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty


def arguments_of(cls: type, path: str) -> dict[str, Argument]:
    """Return the constructor arguments by name; raise ConfigError for ``*args``, ``**kwargs``."""
    try:
        return dict(_arguments(cls))
    except TypeError as error:
        raise ConfigError(f"{path}: {error}") from error


@lru_cache(maxsize=256)
def _arguments(cls: type) -> dict[str, Argument]:
    named = parameters(cls)
    try:
        hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):
        hints = {}  # names that are imported for type checkers only
    return {p.name: Argument(p.name, *_kind(hints.get(p.name, Any)), p.default) for p in named}


def refuse_unknown(
    owner: str,
    given: Iterable[object],
    accepted: Iterable[str],
    path: str,
    fixes: Mapping[Any, str] | None = None,
) -> None:
    """Raise ConfigError for a key that the owner, at that path, does not have."""
    accepted = [*accepted]
    for key in given:
        if key not in accepted:
            place = ".".join(part for part in (path, reason(str(key), 60)) if part)
            fix = f"{(fixes or {}).get(key, '')}{suggestion(str(key), accepted)}"
            raise ConfigError(f"{place}: {owner} has no {quoted(key)}; {fix}")


def refuse_missing(
    owner: str, given: Container[object], required: Iterable[str], path: str
) -> None:
    """Raise ConfigError for a required argument that is not given."""
    for key in required:
        if key not in given:
            raise ConfigError(f"{path}.{key} is missing: {owner} needs it")


def convert(argument: Argument, value: object, path: str) -> object:
    """Convert a plain value to the argument's type: a list to a tuple, "1e-3" to a number."""
    if value is None and argument.default is None:
        return None  # whatever the hint says
    if argument.kind == "none":
        raise ConfigError(
            f"{path} cannot be set in a configuration, got {brief(value)}; leave it out, or build "
            f"the part in Python"
        )
    if argument.kind == "unknown":
        return value
    try:
        return _as(argument.hint, value)
    except _OtherTypeError:
        raise ConfigError(f"{path} must be {words(argument.hint)}, got {brief(value)}") from None


def plain(
    value: object,
    path: str = "model",
    counter: Iterator[int] | None = None,
    depth: int = CONFIG_DEPTH,
) -> Any:
    """Copy a value as plain data: ``PLAIN``, lists and dicts; tuples become lists.

    Raises ConfigError if it holds anything else, is nested too deeply, or, with a ``counter`` of
    entries, has more than ``CONFIG_ENTRIES``. ``path`` is its place, for messages.
    """
    if counter is not None and next(counter) > CONFIG_ENTRIES:
        raise ConfigError(f"{path}: the configuration has more than {CONFIG_ENTRIES} entries")
    if depth < 0:
        raise ConfigError(
            f"{path}: the configuration is nested too deeply, more than {CONFIG_DEPTH} levels, or "
            f"is a circular reference"
        )
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{path}: keys must be strings, got {brief(key)}")
        return {k: plain(v, f"{path}.{k[:60]}", counter, depth - 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{path}[{i}]", counter, depth - 1) for i, item in enumerate(value)]
    if isinstance(value, np.generic):  # a NumPy scalar
        value = value.item()
    if type(value) in PLAIN:
        return value
    raise ConfigError(
        f"{path} is {brief(value)}, which a configuration cannot hold: it holds strings, numbers, "
        f"true, false, null, lists and mappings; build the part in Python instead"
    )


class _OtherTypeError(Exception):
    """A value of another type."""


def _as(hint: Any, value: object) -> Any:
    """Convert a plain value to a type; raise _OtherTypeError if it is of another type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        # Its own type first: 3 stays an integer in int | float.
        for member in sorted(arguments, key=lambda member: type(value) is not member):
            with suppress(_OtherTypeError):
                return _as(member, value)
    elif origin is Literal:
        if any(type(a) is type(value) and a == value for a in arguments):
            return value
    elif isinstance(value, (list, tuple)) and _is_sequence(hint):
        if origin is not tuple:
            return [_as(arguments[0], item) for item in value]
        each = arguments[:1] * len(value) if Ellipsis in arguments else arguments
        if len(each) == len(value):
            return tuple(_as(a, item) for a, item in zip(each, value, strict=True))
    elif isinstance(value, Mapping) and origin in (dict, Mapping):
        return {_as(arguments[0], k): _as(arguments[1], v) for k, v in value.items()}
    elif hint is type(value):
        return value
    elif hint is float and type(value) is int:
        return float(value)
    elif hint in (int, float) and type(value) is str and len(value) < 40:
        with suppress(ValueError):  # YAML has no 1e-3
            return hint(value)
    raise _OtherTypeError


def words(hint: Any) -> str:
    """Return a type hint in words."""
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    members = _members(hint)
    if len(members) > 1:
        if float in members:  # "an integer or a number"
            members = [m for m in members if m is not int]
        return " or ".join(words(m) for m in members)
    (member,), arguments = members, typing.get_args(members[0])
    if typing.get_origin(member) is Literal:
        return " or ".join(repr(a) for a in arguments)
    if typing.get_origin(member) is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)}: {', '.join(words(a) for a in arguments)}"
    if _is_sequence(member):
        plural = {int: "integers", float: "numbers", str: "strings"}
        return f"a list of {plural.get(arguments[0], words(arguments[0]))}"
    return names.get(member, "null" if member is type(None) else "a mapping")


def _kind(hint: Any) -> tuple[Kind, Any]:
    if hint is Any or hint is object:
        return "unknown", hint
    members = _members(hint)
    for member in members:
        origin, arguments = typing.get_origin(member), typing.get_args(member)
        if _is_module(member):
            return "part", hint
        if _is_sequence(member) and any(_is_module(a) for a in arguments):
            return "parts", hint
        makes = arguments[-1] if origin is Callable and arguments else None
        if _is_module(makes) or (origin is type and _is_module(arguments[0])):
            return "activation", hint
    plain = [m for m in members if _is_plain(m)]
    return ("value", Union[tuple(plain)]) if plain else ("none", hint)  # noqa: UP007


def _members(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return [m for a in typing.get_args(hint) for m in _members(a)]
    return [hint]


def _is_module(hint: Any) -> bool:
    return inspect.isclass(hint) and issubclass(hint, nn.Module)


def _is_sequence(hint: Any) -> bool:
    return typing.get_origin(hint) in (Sequence, list, tuple)


def _is_plain(hint: Any) -> bool:
    if hint in PLAIN or typing.get_origin(hint) is Literal:
        return True
    inner = [a for a in typing.get_args(hint) if a is not Ellipsis]
    of_plain = bool(inner) and all(_is_plain(m) for a in inner for m in _members(a))
    return of_plain and (_is_sequence(hint) or typing.get_origin(hint) in (dict, Mapping))
