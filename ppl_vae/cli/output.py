"""Printing: results to stdout, all else to stderr, in whatever encoding these have."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress
from typing import Any

from ppl_vae.ascii import in_ascii
from ppl_vae.errors import message, printable

_HANDLER = "ppl-vae"


def _replaced(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return in_ascii(error.object[error.start : error.end]), error.end


codecs.register_error(_HANDLER, _replaced)


def open_streams() -> None:
    """Open /dev/null in place of a missing stdin, stdout or stderr.

    Otherwise the next file that is opened would take its place, and get what is printed.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115


def replace_unencodable() -> None:
    """Replace characters that stdout and stderr cannot encode: k-hat, +-."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, TypeError, ValueError):  # of another kind, or closed
            if codecs.lookup(stream.encoding).name != "utf-8":
                stream.reconfigure(errors=_HANDLER)  # type: ignore[union-attr]


def show(*lines: object) -> None:
    """Print results on stdout, without control characters."""
    if sys.stdout is not None:
        shown = (printable(str(line), newlines=True) for line in lines)
        print(*shown, sep="\n", flush=True)


def say(text: object) -> None:
    """Print a message on stderr, if it is open."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"ppl-vae: {message(text)}", file=sys.stderr, flush=True)


def forget(stream: Any) -> None:
    """Discard what is left in a stream that cannot be written, before the exit flushes it."""
    with suppress(Exception):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
