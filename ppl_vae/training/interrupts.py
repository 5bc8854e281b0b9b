"""Ctrl-C and a polite kill, heeded between two steps."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME = 1.0
"""Seconds within which a second signal is the first one again, passed on by a launcher."""


class Interrupts:
    """Within ``with``, note the first SIGINT or SIGTERM; a later one acts at once, as usual.

    A launcher such as ``torchrun`` passes on to its processes what the terminal has sent to all of
    them already: what comes within a second is the same one.

    Signals reach the main thread alone: elsewhere, as in a server, nothing is changed.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > SAME:
            self.__exit__(None, None, None)
            signal.raise_signal(number)
