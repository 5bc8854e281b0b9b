"""What is typed about columns of a table: their kinds, and values of some."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppl_vae import tables
from ppl_vae.cli.errors import UsageError
from ppl_vae.cli.flags import parsed_value
from ppl_vae.cli.table_messages import in_flags
from ppl_vae.errors import quoted
from ppl_vae.io.config import ConfigError
from ppl_vae.io.config.files import parsed, read_file
from ppl_vae.io.errors import brief, suggestion
from ppl_vae.tables.frames import is_number

# A column's name may have =, and so may text in braces.
_ENTRY = re.compile(r"(.+?)=(\{.*\})|(.+)=([^=]*)", re.DOTALL)


def entries(flag: str, typed: Sequence[str]) -> dict[str, Any]:
    """Return the entries that were typed, NAME=VALUE, or that a YAML file has."""
    found: dict[str, Any] = {}
    words: dict[str, str] = {}
    for word in typed:
        if "=" in word:
            name, text = _sides(flag, word)
            _refuse_second(flag, name, text, words)
            value = parsed_value(text)
            spelled = parsed(text, as_text=True) if isinstance(value, Mapping) else None
            found[name] = _with_spelling(value, spelled)
        else:
            file = Path(word).expanduser()
            if not file.is_file():
                raise UsageError(f"{flag} must be NAME=VALUE or a YAML file, got {word!r}")
            tree = read_file(file)
            if not isinstance(tree, dict):
                raise ConfigError(f"{file} must hold a mapping of names, got {brief(tree)}")
            found |= kinds_as_spelled(tree, read_file(file, as_text=True))
    return found


def kinds_as_spelled(kinds: Any, spelled: Any) -> Any:
    """Return kinds of a YAML file, names and categories of text being as they are spelled there.

    ``spelled`` is the same content read as text.
    """
    if not isinstance(kinds, Mapping):
        return kinds
    pairs = zip(kinds.values(), spelled.items(), strict=True)
    return {name: _with_spelling(value, text) for value, (name, text) in pairs}


def _with_spelling(kind: Any, spelled: Any) -> Any:
    """Return the kind of a column, categories as spelled unless all are numbers, or all bools."""
    given = kind.get("categories") if isinstance(kind, Mapping) else None
    if not isinstance(given, list) or None in given:
        return kind
    if all(isinstance(c, bool) for c in given) or all(type(c) in (int, float) for c in given):
        return kind
    return {**kind, "categories": [str(c) for c in spelled["categories"]]}


def columns(kinds: Any, frame: Any = None) -> dict[Any, str | tables.Column]:
    """Return kinds as `tables.Schema.infer` takes them, by the names of a frame, if one is given.

    Names that are numbers, which Parquet may have, are typed as text.
    """
    if not isinstance(kinds, Mapping):
        raise ConfigError(f"kinds must be a mapping of columns, got {brief(kinds)}")
    names = {} if frame is None else {str(name): name for name in frame.columns}
    found: dict[Any, str | tables.Column] = {}
    for text, kind in kinds.items():
        name = names.get(str(text), text)
        if isinstance(kind, Mapping):
            try:
                found[name] = tables.Column.from_dict({**kind, "name": name})
            except (TypeError, ValueError) as error:
                raise ConfigError(f"--kinds: {in_flags(str(error))}") from None
        else:
            found[name] = kind
    return found


def given(vae: tables.TableVAE, typed: Sequence[str]) -> dict[Any, Any]:
    """Return values by the names of columns, as they were typed."""
    known = {str(column.name): column for column in vae.schema_}
    words: dict[str, str] = {}
    found = {}
    for word in typed:
        name, text = _sides("--given", word, known)
        if name not in known:
            hint = suggestion(name, known)
            raise UsageError(f"--given: there is no column {quoted(name)}; {hint}")
        _refuse_second("--given", name, text, words)
        found[known[name].name] = _value(known[name], text)
    return found


def _sides(flag: str, word: str, names: Iterable[str] = ()) -> tuple[str, str]:
    """Return the two sides of NAME=VALUE; a name that is known is the longest that fits."""
    known = [name for name in names if word.startswith(f"{name}=")]
    if known:
        name = max(known, key=len)
        return name, word[len(name) + 1 :]
    match = _ENTRY.fullmatch(word)
    if match is None:
        raise UsageError(f"{flag} must be NAME=VALUE, got {word!r}")
    return (match[1], match[2]) if match[1] else (match[3], match[4])


def _refuse_second(flag: str, name: str, text: str, words: dict[str, str]) -> None:
    """Raise UsageError for a name that was typed before; note it."""
    if name in words:
        both = f"{quoted(words[name], 60)} and {quoted(text, 60)}"
        raise UsageError(f"{flag} has {quoted(name)} twice, {both}; give it once")
    words[name] = text


def _value(column: tables.Column, text: str) -> Any:
    """Return the category that reads as was typed, or the number."""
    if column.coded:
        for category in column.categories or ():
            is_bool, is_text = isinstance(category, bool), isinstance(category, str)
            if str(category) == text or (is_bool and str(category).lower() == text):
                return category
            if not is_bool and not is_text and _is_plain_number(text) and float(text) == category:
                return category
        return text
    if not _is_plain_number(text):
        raise UsageError(
            f"--given: column {quoted(column.name)} needs a number, got {quoted(text, 60)}"
        )
    return float(text)


def _is_plain_number(text: str) -> bool:
    return is_number(text) and "_" not in text and math.isfinite(float(text))
