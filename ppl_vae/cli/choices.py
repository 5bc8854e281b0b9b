"""``ppl-vae list`` and ``ppl-vae show``: what there is to choose from, and what each is."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable
from difflib import get_close_matches
from shutil import get_terminal_size
from typing import Any

from ppl_vae.cli.catalogue import KINDS, entries, kind_of, plain, singular
from ppl_vae.cli.errors import SUCCESS, UsageError
from ppl_vae.cli.output import show as put
from ppl_vae.errors import quoted


def list_all(flags: Any) -> int:
    """Print a line for each of a kind, or for each kind; return the exit code."""
    if flags.kind is None:
        _table(KINDS.items())
        put("", "ppl-vae list KIND has a line for each; ppl-vae show KIND NAME all about one.")
        return SUCCESS
    kind = _kind(flags.kind)
    _table((name, entry.sentence) for name, entry in entries(kind).items())
    return SUCCESS


def show(flags: Any) -> int:
    """Print the signature and the documentation of one; return the exit code."""
    kind = _kind(flags.kind)
    found = entries(kind)
    if flags.name not in found:
        one = singular(kind)
        hint = _suggestion(flags.name, found)
        raise UsageError(f"there is no {one} {quoted(flags.name)}; {hint}")
    entry = found[flags.name]
    if kind == "configs":
        put(f"$ {entry.signature}", "", entry.doc.partition("\n\n")[2].rstrip())
    else:
        put(entry.signature, "", textwrap.indent(plain(entry.doc), "    "))
    return SUCCESS


def _kind(typed: str) -> str:
    kind = kind_of(typed)
    if kind is None:
        raise UsageError(f"KIND: there are no {quoted(typed)}; {_suggestion(typed, KINDS)}")
    return kind


def _suggestion(typed: str, known: Iterable[str]) -> str:
    lower = {name.lower(): name for name in known}
    close = get_close_matches(typed[:100].lower(), lower, n=1)
    accepted = f"ccepted: {', '.join(lower.values())}"
    return f"did you mean {lower[close[0]]}? A{accepted}" if close else f"a{accepted}"


def _table(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and texts in two columns; a text that is longer than a terminal is cut there."""
    found = list(rows)
    width = max(len(name) for name, _ in found)
    # Files and pipes get whole lines.
    room = get_terminal_size().columns if os.isatty(1) else None
    for name, text in found:
        line = f"{name:{width}}  {text}"
        put(line if room is None or len(line) <= room else f"{line[: room - 1]}…")
