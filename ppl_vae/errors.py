"""What arguments must be, and how messages describe what came instead.

In a few words, safe for a terminal, and never long.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import Any

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
        told = f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
        layout, device = str(value.layout).removeprefix("torch."), value.device.type
        odd = [*([layout] if layout != "strided" else []), *(["meta"] if device == "meta" else [])]
        return f"{told} ({', '.join(odd)})" if odd else told
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
    text = str(error)
    if isinstance(error, OSError) and error.strerror is not None:  # without its number
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
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
    return integer(owner, name, value, 1, fix)


def integer(owner: str, name: str, value: object, least: int, fix: str = "") -> int:
    """Return an integer of Python; a scalar of NumPy is one, and a bool and an array are none.

    Args:
        owner: whose argument it is, for messages; nobody if empty.
        name: of the argument.
        value: what came.
        least: the least that it may be.
        fix: what to do where it is less.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is less, or has more than 64 bits.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(
            f"{_of(owner)}{name} must be an integer of {least} or more, got {_scalar(value)}"
        )
    number = int(value)
    if number < least:
        raise ValueError(
            f"{_of(owner)}{name} must be {least} or more, got {quoted(number)}{_fix(fix)}"
        )
    if number >= 2**63:
        raise ValueError(f"{_of(owner)}{name} must have at most 64 bits, got {quoted(number)}")
    return number


def number(
    owner: str,
    name: str,
    value: object,
    *,
    least: int | float | None = None,
    above: int | float | None = None,
    most: int | float | None = None,
    below: int | float | None = None,
    fix: str = "",
) -> int | float:
    """Return a finite number of Python; a scalar of NumPy is one, a bool and an array are none.

    Args:
        owner: whose argument it is, for messages; nobody if empty.
        name: of the argument.
        value: what came.
        least: the least that it may be.
        above: what it must be above.
        most: the most that it may be.
        below: what it must be below.
        fix: what to do where it is not in this range.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not finite, or not in the range.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{_of(owner)}{name} must be a number, got {_scalar(value)}")
    found = int(value) if isinstance(value, Integral) else float(value)
    low = (least is None or found >= least) and (above is None or found > above)
    high = (most is None or found <= most) and (below is None or found < below)
    if not (low and high and -sys.float_info.max <= found <= sys.float_info.max):
        expected = _range(least, above, most, below)
        raise ValueError(f"{_of(owner)}{name} must be {expected}, got {quoted(found)}{_fix(fix)}")
    return found


def _range(
    least: int | float | None,
    above: int | float | None,
    most: int | float | None,
    below: int | float | None,
) -> str:
    """Say in words from where to where a number may be."""
    if least is not None and most is not None:
        return f"from {least:g} to {most:g}"
    if above is not None and below is not None:
        return f"between {above:g} and {below:g}"
    ends = {"at least": least, "above": above, "at most": most, "below": below}
    there = [f"{words} {end:g}" for words, end in ends.items() if end is not None]
    return " and ".join(there if len(there) > 1 else ["finite", *there])


def flag(owner: str, name: str, value: object) -> bool:
    """Return True or False; raise TypeError, that names the argument, for anything else."""
    if type(value).__name__ not in ("bool", "bool_"):  # Python's and NumPy's
        raise TypeError(f"{_of(owner)}{name} must be True or False, got {describe(value)}")
    return bool(value)


def seed_of(owner: str, seed: object) -> int:
    """Return the seed of random generators, an integer of 64 bits.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is negative, or of more bits.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"{_of(owner)}seed must be an integer, got {_scalar(seed)}")
    if not 0 <= int(seed) < 2**64:
        raise ValueError(f"{_of(owner)}seed must be from 0 to 2**64 - 1, got {quoted(int(seed))}")
    return int(seed)


def sizes(owner: str, name: str, values: object) -> tuple[int, ...]:
    """Return a sequence of integers of 1 or more, such as widths or a shape, as a tuple.

    Raises:
        TypeError: if it is no sequence, or one of something else.
        ValueError: if one is less than 1.
    """
    return tuple(
        positive_int(owner, name, value)
        for value in listed(owner, name, values, "integers of 1 or more")
    )


def listed(owner: str, name: str, values: object, of: str) -> Sequence:
    """Return a sequence as it is; raise TypeError, that names the argument, for anything else."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        fix = f"a single one is written ({values},)" if isinstance(values, Integral) else ""
        raise TypeError(
            f"{_of(owner)}{name} must be a sequence of {of}, got {describe(values)}{_fix(fix)}"
        )
    return values


def path_of(owner: str, name: str, value: object) -> Path:
    """Return a path; raise an error, that names the argument, for an empty one or anything else."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{_of(owner)}{name} must be a path, got {describe(value)}")
    if not os.fspath(value):
        raise ValueError(
            f"{_of(owner)}{name} must not be empty, got ''; the current folder is written '.'"
        )
    return Path(value)


def device_of(owner: str, device: Any) -> Any:
    """Return a device, or None, as it is; raise an error that names it if torch cannot use it.

    Raises:
        TypeError: if it is no device, nor the name of one.
        ValueError: if there is none of that name here.
    """
    import torch  # not for a message alone

    if device is None:
        return None
    expected = f"{_of(owner)}device must be one that torch can use here, such as 'cpu' or 'cuda'"
    if isinstance(device, bool) or not isinstance(device, (str, int, torch.device)):
        raise TypeError(f"{expected}, got {describe(device)}")
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # of a build without it, or without a driver
        raise ValueError(f"{expected}, got {quoted(device)}: {reason(error, 80)}") from error
    return device


def _of(owner: str) -> str:
    return f"{owner}: " if owner else ""


def _fix(fix: str) -> str:
    return f"; {fix}" if fix else ""


def _scalar(value: object) -> str:
    """Describe what is no number, and say how to get that of an array of one."""
    alone = type(value).__name__ in ("ndarray", "Tensor") and getattr(value, "ndim", 1) == 0
    fix = "; give its number, .item()" if alone else ""
    return f"{describe(value)}{fix}"


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
