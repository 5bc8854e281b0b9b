"""What the commands print: results to stdout, all else to stderr, whatever these can take."""

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
    """Give a process that was started without stdin, stdout or stderr one that takes everything.

    The next file that is opened would be in its place, and get what is printed.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115


def take_all_letters() -> None:
    """Let stdout and stderr print what they have no letters for in other words: k-hat, +-."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, TypeError, ValueError):  # of another kind, or closed
            if codecs.lookup(stream.encoding).name != "utf-8":
                stream.reconfigure(errors=_HANDLER)  # type: ignore[union-attr]


def show(*lines: object) -> None:
    """Print results on stdout: nothing that a terminal would act upon."""
    if sys.stdout is not None:
        shown = (printable(str(line), newlines=True) for line in lines)
        print(*shown, sep="\n", flush=True)


def say(text: object) -> None:
    """Print a message on stderr, likewise, if there is one and somebody reads it."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"ppl-vae: {message(text)}", file=sys.stderr, flush=True)


def forget(stream: Any) -> None:
    """Print no more to a stream that cannot be written; what is left would be at the exit."""
    with suppress(Exception):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
