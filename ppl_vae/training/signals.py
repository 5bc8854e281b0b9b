"""Ctrl-C, a polite kill and the end of a terminal, heeded between two steps."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_HANGUP = getattr(signal, "SIGHUP", None)  # where there are terminals that hang up
SIGNALS = (signal.SIGINT, signal.SIGTERM, *(() if _HANGUP is None else (_HANGUP,)))
SAME = 1.0
"""Seconds within which a second signal is the first one again, passed on by a launcher."""


class Interrupts:
    """Within ``with``, note the first SIGINT, SIGTERM or SIGHUP; a later one acts at once.

    A launcher such as ``torchrun`` passes on to its processes what the terminal has sent to all of
    them already: what comes within a second is the same one. A terminal that ends sends SIGHUP, and
    so does the shell in it, whenever: no further one acts. Where SIGHUP is ignored, as under
    ``nohup``, it stays so.

    Signals reach the main thread alone: elsewhere, as in a server, nothing is changed.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            noted = [n for n in SIGNALS if n != _HANGUP or signal.getsignal(n) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in noted}
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
        elif number != _HANGUP and time.monotonic() - self._since > SAME:
            self.__exit__(None, None, None)
            signal.raise_signal(number)
