"""Columns in processes of their own, of which one works while the others sleep."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import measure
import torch
from rows import Column, Layers, Unavailable
from torch import Tensor

PAUSE = 0.005
"""Seconds over which a process is watched for threads that are still at work."""
PATIENCE = 400
"""Pauses after which they are taken to never sleep."""


class Remote:
    """A column in a process of its own; to be used as a :class:`rows.Column` is.

    The process sleeps in a blocking read but for its turns, and times them itself. It answers when
    all of its threads sleep, too: those of OpenMP are busy for some milliseconds while they wait
    for more work, which would be taken from the next column.

    Args:
        make: a function of a module that returns the column.
        args: what it is called with.
        without: packages that must not be imported in that process, now or later.

    Raises:
        Unavailable: if there is no such column, or it fails.
        RuntimeError: now or later, if the process has imported what it has to do without.
    """

    def __init__(
        self, make: Callable[..., Column], *args: Any, without: Sequence[str] = ()
    ) -> None:
        measure.set_environment()
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make, args, tuple(without)), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            self._answer()
        except Exception:
            self.close()
            raise

    def turn(self, indices: Tensor) -> tuple[float, list[float]]:
        """Take the steps of a turn; return seconds per step, and their losses."""
        self._connection.send(indices.tolist())  # a tensor would be sent by shared memory
        return self._answer()

    def weights(self) -> dict[str, Layers]:
        """Return weight and bias of each layer as they are now, by network."""
        self._connection.send("weights")
        return {
            name: [(torch.from_numpy(weight), torch.from_numpy(bias)) for weight, bias in layers]
            for name, layers in self._answer().items()
        }

    def asleep(self) -> float:
        """Return the processor seconds that the process took per second asleep."""
        self._connection.send(None)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise Unavailable(f"its process ended with {self._process.exitcode}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextmanager
def started(
    columns: Mapping[str, Callable[[], Remote]], at_once: int
) -> Iterator[tuple[dict[str, Remote], dict[str, str]]]:
    """Have a process for each column that there is, and say why there are no others.

    Args:
        columns: what starts each.
        at_once: how many are started at once.
    """

    def start(make: Callable[[], Remote]) -> Remote | Unavailable:
        try:
            return make()
        except Unavailable as reason:
            return reason

    with ExitStack() as stack, ThreadPoolExecutor(at_once) as pool:
        ready: dict[str, Remote] = {}
        absent: dict[str, str] = {}
        for name, found in zip(columns, pool.map(start, columns.values()), strict=True):
            if not isinstance(found, Unavailable):
                stack.callback(found.close)
                ready[name] = found
            elif str(found):
                absent[name] = str(found)
        yield ready, absent


def _serve(
    connection: Connection, make: Callable[..., Column], args: tuple, without: tuple[str, ...]
) -> None:
    column: Column | None = None
    busy = slept = 0.0

    def begin() -> None:
        nonlocal column
        column = make(*args)

    def answer(to: Callable[[], Any]) -> None:
        found: Any
        try:
            found = to()
            _fall_asleep()
        except Unavailable as reason:
            found = reason
        except Exception as error:  # another library's, of another version perhaps
            found = Unavailable(
                f"failed with {type(error).__name__}: {str(error).splitlines()[:1]}"
            )
        if imported := [name for name in without if name in sys.modules]:
            found = RuntimeError(f"imported where a process has to do without: {imported}")
        connection.send(found)

    def request() -> Any:
        if asked is None:
            return busy / slept
        if asked == "weights":
            return {
                name: [(w.numpy(), b.numpy()) for w, b in layers]
                for name, layers in column.weights().items()
            }
        return column.turn(torch.tensor(asked))

    answer(begin)
    while True:
        at_work, now = time.process_time(), time.perf_counter()
        try:
            asked = connection.recv()
        except EOFError:
            return
        busy += time.process_time() - at_work
        slept += time.perf_counter() - now
        answer(request)


def _fall_asleep() -> None:
    """Return when no thread of this process is at work."""
    for _ in range(PATIENCE):
        before = time.process_time()
        time.sleep(PAUSE)
        if time.process_time() - before < PAUSE / 10:
            return
    raise RuntimeError("threads that never sleep")
