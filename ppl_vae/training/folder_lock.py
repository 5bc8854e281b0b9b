"""One training at a time in a folder."""

from __future__ import annotations

import errno
import json
import os
import platform
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

NAME = ".ppl-vae-lock"
_WITHOUT = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_LONGEST = 1000


class _Held:
    """An open lock file."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


_held: weakref.WeakSet[_Held] = weakref.WeakSet()


def _let_go() -> None:
    for held in list(_held):
        held.close()


if hasattr(os, "register_at_fork"):
    # A worker of a loader is a copy of the process: it would hold the lock after its end.
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder; made if it is not there, and removed again if nothing was put in it.

    The system lets go of it when the process ends, in whatever way. Where the file system has no
    such locks, as some of a network, a warning says so.

    Raises:
        BlockingIOError: if another training holds it; the message says which.
        OSError: if nothing can be written there.
    """
    made = _made(folder)
    try:
        held = _acquired(folder)
        try:
            yield
        finally:
            if held is not None:
                with suppress(OSError):
                    (folder / NAME).unlink()  # first: nobody is to lock what is no longer there
                held.close()
    finally:
        for path in made:
            with suppress(OSError):  # there is something in it
                path.rmdir()


def _made(folder: Path) -> list[Path]:
    """Make a folder; return those that were made, the innermost first."""
    missing = []
    for path in (folder, *folder.parents):
        if os.path.lexists(path):
            break
        missing.append(path)
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _acquired(folder: Path) -> _Held | None:
    path = folder / NAME
    if fcntl is None:
        _warn(folder)
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        held = _Held(descriptor)
        _held.add(held)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            told = _told(descriptor)
            held.close()
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BlockingIOError(
                    f"fit: another training writes into {folder}: {told}\n"
                    f"Wait for its end, stop it, or give another folder as out"
                ) from None
            if error.errno in _WITHOUT:
                _warn(folder)
                return None
            raise OSError(error.errno, error.strerror, str(path)) from error
        if _is_at(descriptor, path):
            break
        held.close()  # its holder removed it in the meantime
    with suppress(OSError):  # a full disk: what it says is a help, and no more
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _mine(), 0)
    return held


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _mine() -> bytes:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since}).encode()


def _told(descriptor: int) -> str:
    """Say who holds a lock."""
    try:
        holder = json.loads(os.pread(descriptor, _LONGEST, 0))
        pid, host, since = int(holder["pid"]), str(holder["host"]), str(holder["since"])
    except (OSError, ValueError, TypeError, KeyError):
        return "it has not said yet which"
    return f"process {pid} on {ascii(host[:100])[1:-1]}, since {ascii(since[:40])[1:-1]}"


def _warn(folder: Path) -> None:
    warnings.warn(
        f"fit: {folder} cannot be locked on this system; see that no other training writes there",
        stacklevel=2,
    )
