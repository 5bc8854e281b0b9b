"""The bar that shows how far a training has come, and never stops it."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from tqdm import tqdm

INTERVAL = 0.5
"""Seconds between two looks of the bar, at least."""


class _Written:
    """A stream that may be closed, or a pipe that nobody reads any more: then nothing is shown.

    Args:
        stream: to be written to.
    """

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
    """Return the bar of a training, on stderr where there is one.

    Args:
        total: steps of it.
        done: steps taken before.
        shown: show it.
    """
    stream = sys.stderr
    there = stream is not None and not getattr(stream, "closed", False)
    return tqdm(
        total=total,
        initial=done,
        desc="fit",
        unit="step",
        mininterval=INTERVAL,
        file=_Written(stream) if there else None,
        disable=not (shown and there),
    )
