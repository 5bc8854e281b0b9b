"""Signals that end a training between two steps: SIGINT (Ctrl-C), SIGTERM, SIGHUP."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

_HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows
SIGNALS = (signal.SIGINT, signal.SIGTERM, *(() if _HANGUP is None else (_HANGUP,)))
REPEAT_WINDOW = 1.0
"""Seconds within which a second signal is the first one, forwarded by a launcher."""


class Interrupts:
    """Record the first SIGINT, SIGTERM or SIGHUP within ``with``; a later one acts at once.

    A launcher such as ``torchrun`` forwards what the terminal has already sent to its processes: a
    second signal within a second is ignored. So is any further SIGHUP, which both a closing
    terminal and its shell send. Where SIGHUP is ignored, as under ``nohup``, it stays ignored.

    Python handles signals in the main thread; in any other nothing changes.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._time = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            noted = [n for n in SIGNALS if n != _HANGUP or signal.getsignal(n) != signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._record) for number in noted}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._time = number, time.monotonic()
        elif number != _HANGUP and time.monotonic() - self._time > REPEAT_WINDOW:
            self.__exit__()
            signal.raise_signal(number)
