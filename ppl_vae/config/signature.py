"""A constructor's arguments as a configuration sees them: their kinds, and checks of values."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union

from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from ppl_vae.config.errors import ConfigError, told
from ppl_vae.construction import parameters

Kind = Literal["value", "part", "parts", "activation", "unknown", "none"]
PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor.

    ``kind`` says what a configuration may hold there: a plain ``value`` of the type ``hint``, a
    ``part`` (a mapping with a class), a list of ``parts``, the name of an ``activation``; with no
    type hint it is ``unknown``, and ``none`` if nothing can be written, as for a tensor.
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
    """Return a constructor's arguments by name.

    Raises:
        ConfigError: if it takes ``*args`` or ``**kwargs``.
    """
    try:
        named = parameters(cls)
    except TypeError as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):
        hints = {}  # names that exist for type checkers alone
    return {p.name: Argument(p.name, *_kind(hints.get(p.name, Any)), p.default) for p in named}


def convert(argument: Argument, value: object, path: str) -> object:
    """Return a plain value as the argument's type: a list as a tuple, "1e-3" as a number.

    Raises:
        ConfigError: if it is not of that type.
    """
    if value is None and argument.default is None:
        return None  # whatever the hint says
    if argument.kind == "none":
        raise ConfigError(
            f"{path} cannot be given in a configuration, got {told(value)}; leave it out, or "
            f"build the part in Python"
        )
    members = _members(argument.hint)
    if argument.kind == "unknown" or any(_takes_as_is(m, value) for m in members):
        return value
    items = [_item(m) for m in members if _is_sequence(m) and isinstance(value, (list, tuple))]
    try:
        if len(items) == 1 and items[0] is not None:  # jsonargparse copies the list for each item
            one = Argument(argument.name, "value", items[0], inspect.Parameter.empty)
            return [convert(one, item, path) for item in value]  # type: ignore[attr-defined]
        if type(value) is str and (number := _number(members, value)) is not None:
            return number
        if value is not None:  # jsonargparse takes None for "not given"
            parser = ArgumentParser(exit_on_error=False, default_env=False)
            parser.add_argument("--value", type=argument.hint)
            return parser.parse_object({"value": value}).value
    except (ArgumentError, ValueError, TypeError):
        pass
    raise ConfigError(f"{path} must be {words(argument.hint)}, got {told(value)}")


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


def _takes_as_is(member: Any, value: object) -> bool:
    # jsonargparse reads strings as YAML first, so that "3" would be an integer even for a string.
    if typing.get_origin(member) is Literal:
        return any(type(a) is type(value) and a == value for a in typing.get_args(member))
    return member in (str, type(None), int, float) and type(value) is member


def _item(member: Any) -> Any:
    """Return the type of a list's items; None where they have places of their own."""
    arguments = [a for a in typing.get_args(member) if a is not Ellipsis]
    fixed = typing.get_origin(member) is tuple and Ellipsis not in typing.get_args(member)
    return None if fixed or len(arguments) != 1 else arguments[0]


def _number(members: list[Any], text: str) -> int | float | None:
    """Return the number that a string is, such as "1e-3", if the argument takes one."""
    for kind in (int, float):
        if kind in members and len(text) < 40:
            try:
                return kind(text)
            except ValueError:
                continue
    return None


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
