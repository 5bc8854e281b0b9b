"""Checks of arguments, and descriptions of values for messages: short, and safe for a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import Any

Bound = int | float | None
SHORT = 200
"""Limit on the characters of one value in a message."""
LONGEST = 2000
"""Limit on the characters of a message about a file."""
_BITS = 1000
# Containers may be long, so their items are written one by one.
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
    dict: ("{", "}"),
}


class PrintableError(Exception):
    """An error whose message is short and safe for a terminal, whatever it quotes."""

    def __init__(self, text: object = "") -> None:
        super().__init__(message(text))


def describe(value: object) -> str:
    """Return the ``repr`` and type of a value, in short; of a tensor the shape and dtype."""
    torch = sys.modules.get("torch")  # not imported for a message
    if torch is not None and isinstance(value, torch.Tensor):
        text = f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
        layout, device = str(value.layout).removeprefix("torch."), value.device.type
        odd = [*([layout] if layout != "strided" else []), *(["meta"] if device == "meta" else [])]
        return f"{text} ({', '.join(odd)})" if odd else text
    return f"{quoted(value)} ({type(value).__name__})"


def quoted(value: object, most: int = SHORT) -> str:
    """Return the ``repr`` of a value on one printable line, cut to ``most`` characters.

    A path is quoted as its string. Of a long value, only the part that is written is formatted.
    """
    if isinstance(value, PurePath):
        value = os.fspath(value)
    return _cut(printable(_repr(value, most, depth=4), newlines=False), most)


def reason(error: BaseException | str, most: int = SHORT) -> str:
    """Return another library's error message on one printable line, cut to ``most`` characters."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror is not None:  # without errno
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return _cut(printable(text[: 4 * most], newlines=False), most)


def message(text: object) -> str:
    """Return a whole message, printable except for line breaks, cut to ``LONGEST``."""
    return _cut(printable(str(text)[: 2 * LONGEST], newlines=True), LONGEST)


def printable(text: str, *, newlines: bool) -> str:
    """Escape what a terminal would act upon, as Python does.

    These are control characters (escape sequences, carriage returns), marks of writing direction,
    and lone surrogates. Line breaks stay, or become spaces.
    """
    if text.isprintable():
        return text
    lines = text.split("\n")
    if not newlines:
        lines = [" ".join(line.strip() for line in lines)]
    return "\n".join("".join(map(_escaped, line)) for line in lines)


def positive_int(owner: str, name: str, value: object, fix: str = "") -> int:
    """Return an integer of 1 or more, see :func:`integer`."""
    return integer(owner, name, value, 1, fix)


def integer(owner: str, name: str, value: object, least: int, fix: str = "") -> int:
    """Return a Python integer from ``least`` to 64 bits; raise an error for anything else.

    NumPy scalars are accepted, bools and arrays are not. ``owner`` is the function or class whose
    argument it is and ``fix`` what to do about a smaller one, both for messages.
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
    least: Bound = None,
    above: Bound = None,
    most: Bound = None,
    below: Bound = None,
    fix: str = "",
) -> int | float:
    """Return a finite Python number in a range: inclusive ``least``, ``most``, exclusive others.

    NumPy scalars are accepted, bools and arrays are not. ``owner`` is the function or class whose
    argument it is and ``fix`` what to do about one out of range, both for messages.
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


def _range(least: Bound, above: Bound, most: Bound, below: Bound) -> str:
    """Return a range in words."""
    if least is not None and most is not None:
        return f"from {least:g} to {most:g}"
    if above is not None and below is not None:
        return f"between {above:g} and {below:g}"
    ends = {"at least": least, "above": above, "at most": most, "below": below}
    there = [f"{words} {end:g}" for words, end in ends.items() if end is not None]
    return " and ".join(there if len(there) > 1 else ["finite", *there])


def flag(owner: str, name: str, value: object) -> bool:
    """Return a bool of Python or NumPy as Python's; raise TypeError for anything else."""
    if type(value).__name__ not in ("bool", "bool_"):  # Python's and NumPy's
        raise TypeError(f"{_of(owner)}{name} must be True or False, got {describe(value)}")
    return bool(value)


def seed_of(owner: str, seed: object) -> int:
    """Return a seed for random generators, an unsigned integer of 64 bits."""
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"{_of(owner)}seed must be an integer, got {_scalar(seed)}")
    if not 0 <= int(seed) < 2**64:
        raise ValueError(f"{_of(owner)}seed must be from 0 to 2**64 - 1, got {quoted(int(seed))}")
    return int(seed)


def sizes(owner: str, name: str, values: object) -> tuple[int, ...]:
    """Return a sequence of integers of 1 or more, such as widths or a shape, as a tuple."""
    return tuple(
        positive_int(owner, name, value)
        for value in sequence(owner, name, values, "integers of 1 or more")
    )


def sequence(owner: str, name: str, values: object, of: str) -> Sequence:
    """Return a sequence; raise TypeError for anything else, strings included."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        fix = f"write a single one as ({values},)" if isinstance(values, Integral) else ""
        raise TypeError(
            f"{_of(owner)}{name} must be a sequence of {of}, got {describe(values)}{_fix(fix)}"
        )
    return values


def path_of(owner: str, name: str, value: object) -> Path:
    """Return a path; raise TypeError for anything else, and ValueError for an empty one."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{_of(owner)}{name} must be a path, got {describe(value)}")
    if not os.fspath(value):
        raise ValueError(
            f"{_of(owner)}{name} must not be empty, got ''; write the current folder as '.'"
        )
    return Path(value)


def folder_of(owner: str, value: object) -> Path:
    """Return the path of a folder; raise FileNotFoundError if it does not exist."""
    path = path_of(owner, "folder", value)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {reason(str(path), 500)}")
    return path


def device_of(owner: str, device: Any) -> Any:
    """Return a device, or None; raise TypeError or ValueError unless torch can use it here."""
    import torch  # not above, as messages do not need it

    if device is None:
        return None
    expected = f"{_of(owner)}device must be available, such as 'cpu' or 'cuda'"
    if isinstance(device, bool) or not isinstance(device, (str, int, torch.device)):
        raise TypeError(f"{expected}, got {describe(device)}")
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # not built in, or no driver
        raise ValueError(f"{expected}, got {quoted(device)}: {reason(error, 80)}") from error
    return device


def _of(owner: str) -> str:
    return f"{owner}: " if owner else ""


def _fix(fix: str) -> str:
    return f"; {fix}" if fix else ""


def _scalar(value: object) -> str:
    """Describe what is not a number, and for an array of one element how to get it."""
    alone = type(value).__name__ in ("ndarray", "Tensor") and getattr(value, "ndim", 1) == 0
    fix = "; use .item()" if alone else ""
    return f"{describe(value)}{fix}"


def _escaped(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _repr(value: object, length: int, depth: int) -> str:
    kind = type(value)
    if isinstance(value, (str, bytes, bytearray)) and len(value) > length:
        return f"{value[:length]!r} ..."
    if kind is int and value.bit_length() > _BITS:  # type: ignore[attr-defined]
        return f"an integer of {value.bit_length()} bits"  # type: ignore[attr-defined]
    if kind in _BRACKETS and value:
        return _items(value, length, depth) if depth else "..."  # type: ignore[arg-type]
    try:
        return repr(value)
    except Exception:  # an error message must not raise another
        return object.__repr__(value)


def _items(value: Iterable[object], length: int, depth: int) -> str:
    left, right = _BRACKETS[type(value)]
    written: list[str] = []
    for item in value:
        if length <= 0:
            written.append("...")
            break
        text = _repr(item, length, depth - 1)
        if isinstance(value, dict):
            text = f"{text}: {_repr(value[item], length, depth - 1)}"
        written.append(text)
        length -= len(text) + 2
    one = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return f"{left}{', '.join(written)}{one}{right}"
