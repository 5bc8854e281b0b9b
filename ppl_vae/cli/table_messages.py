"""Messages about tables in terms of files and flags, in place of frames and arguments."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ppl_vae.cli.errors import UsageError
from ppl_vae.errors import quoted

_OWNER = re.compile(r"^(\w+_table|impute|sample|Schema\.\w+|TableVAE(\.\w+)?): ")
_KINDS = re.compile(r"kinds=\{'?(.*?)'?: '(\w+)'\}")
_COLUMN = re.compile(r"Column\('?(.*?)'?, '(\w+)', (.*?)\)")
_OTHER_WORDS = (
    (re.compile(r"^(kinds|families)\b"), r"--\1"),
    (re.compile(r"(?<=^--kinds)\[(.*?)\] must"), r": \1 must"),
    (re.compile(r", or fit with torch\.set_default_dtype\(.*?\)"), ""),
    (re.compile(r"\btorch\.(?=float\d)"), ""),
    (re.compile(r"mark it as missing and cast the column to numbers"), "leave the cell empty"),
    (re.compile(r"mark it as missing"), "leave the cell empty"),
    (re.compile(r", and cast the column to numbers"), ""),
    (re.compile(r"select those that it has, by .*"), "take such columns out of the file"),
    (re.compile(r"give more num_particles"), "give a larger --num-particles"),
)


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Name the file, or the flag, in errors about a table, in terms of flags."""
    try:
        yield
    except (TypeError, ValueError) as error:
        text = in_flags(str(error))
        named = text.startswith(quoted(source))
        raise UsageError(text if named else f"{source}: {text}") from error


@contextmanager
def errors_in_flags() -> Iterator[None]:
    """Have errors about a table in terms of flags; others are as they are."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if (text := in_flags(str(error))) == str(error):
            raise
        raise UsageError(text) from error


@contextmanager
def warnings_in_flags() -> Iterator[None]:
    """Have warnings about a table in terms of flags."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for each in caught:
        warnings.warn(in_flags(str(each.message)), each.category, stacklevel=3)


def in_flags(text: str) -> str:
    """Return a message about a table without its owner, with flags in the place of arguments."""
    text = _KINDS.sub(r"--kinds '\1=\2'", _OWNER.sub("", text))
    text = _COLUMN.sub(lambda m: f"--kinds '{m[1]}={{kind: {m[2]}, {_as_yaml(m[3])}}}'", text)
    for words, instead in _OTHER_WORDS:
        text = words.sub(instead, text)
    return text


def _as_yaml(arguments: str) -> str:
    return arguments.replace("=", ": ")
