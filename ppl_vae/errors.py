"""How error messages describe what came: in a few words, safe for a terminal, and never long."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import PurePath

SHORT = 200
"""Characters of one value in a message, at most."""
LONGEST = 2000
"""Characters of a message about a file, at most."""
_DIGITS = 1000
# Their repr is long where they are, and is not made: the items are written one by one.
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
    dict: ("{", "}"),
}


def describe(value: object) -> str:
    """Describe a value in a few words, a tensor by its shape and dtype."""
    torch = sys.modules.get("torch")  # not imported for a message: without it there is no tensor
    if torch is not None and isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    return f"{quoted(value)} ({type(value).__name__})"


def quoted(value: object, most: int = SHORT) -> str:
    """Return the ``repr`` of a value on one line, cut to ``most`` characters, nothing unprintable.

    A path is quoted as its string. Of what is long, no more is looked at than is written.
    """
    if isinstance(value, PurePath):
        value = os.fspath(value)
    return _cut(printable(_repr(value, most, depth=4), newlines=False), most)


def reason(error: BaseException | str, most: int = SHORT) -> str:
    """Return what an error of somebody else's says, on one line and in short, for a message."""
    text = error if isinstance(error, str) else str(error)
    return _cut(printable(text[: 4 * most], newlines=False), most)


def message(text: object) -> str:
    """Return a whole message as it may be shown: nothing unprintable but line breaks, not long."""
    return _cut(printable(str(text)[: 2 * LONGEST], newlines=True), LONGEST)


def printable(text: str, *, newlines: bool) -> str:
    """Write what a terminal would act upon as Python escapes it.

    That is control characters (escape sequences, carriage returns), marks that turn the direction
    of writing, and lone surrogates. Line breaks stay or, on one line, are spaces.
    """
    if text.isprintable():
        return text
    lines = text.split("\n")
    if not newlines:
        lines = [" ".join(line.strip() for line in lines)]
    return "\n".join("".join(map(_escaped, line)) for line in lines)


def positive_int(owner: str, name: str, value: object, fix: str = "") -> int:
    """Return ``value`` if it is an integer of 1 or more; raise an error that names it otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an integer of 1 or more, got {describe(value)}")
    if value < 1:
        hint = f"; {fix}" if fix else ""
        raise ValueError(f"{owner}: {name} must be 1 or more, got {quoted(value)}{hint}")
    return value


def _escaped(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _repr(value: object, room: int, depth: int) -> str:
    kind = type(value)
    if isinstance(value, (str, bytes, bytearray)) and len(value) > room:
        return f"{value[:room]!r} ..."
    if kind is int and value.bit_length() > _DIGITS:  # type: ignore[attr-defined]
        return f"an integer of {value.bit_length()} bits"  # type: ignore[attr-defined]
    if kind in _BRACKETS and value:
        return _items(value, room, depth) if depth else "..."  # type: ignore[arg-type]
    try:
        return repr(value)
    except Exception:  # an error message must not raise another
        return object.__repr__(value)


def _items(value: Iterable[object], room: int, depth: int) -> str:
    left, right = _BRACKETS[type(value)]
    written: list[str] = []
    for item in value:
        if room <= 0:
            written.append("...")
            break
        text = _repr(item, room, depth - 1)
        if isinstance(value, dict):
            text = f"{text}: {_repr(value[item], room, depth - 1)}"
        written.append(text)
        room -= len(text) + 2
    one = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return f"{left}{', '.join(written)}{one}{right}"
