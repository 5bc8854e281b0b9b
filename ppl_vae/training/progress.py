"""The progress bar of a training, which never interrupts it; a widget in a notebook."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from tqdm.auto import tqdm

INTERVAL = 0.5
"""Least number of seconds between two updates."""


class _SafeStream:
    """A stream that may be closed, or a broken pipe: then nothing is written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self._stream.flush()


def progress_bar(total: int, done: int, shown: bool) -> tqdm:
    """Return a progress bar on stderr, disabled if there is none."""
    stream = sys.stderr
    is_open = stream is not None and not getattr(stream, "closed", False)
    return tqdm(
        total=total,
        initial=done,
        desc="fit",
        unit="step",
        mininterval=INTERVAL,
        file=_SafeStream(stream) if is_open else None,
        disable=not (shown and is_open),
    )
