"""A lock on a folder: one process at a time writes into it."""

from __future__ import annotations

import errno
import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

NAME = ".ppl-vae-lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_MAX_BYTES = 1000

_open: set[int] = set()
"""Descriptors of lock files."""


def _close(descriptor: int) -> None:
    if descriptor in _open:  # not so in a copy of the process
        _open.remove(descriptor)
        os.close(descriptor)


def _close_all() -> None:
    for descriptor in list(_open):
        _close(descriptor)


if hasattr(os, "register_at_fork"):
    # A data loader's worker is a copy of the process and would hold the lock beyond its end.
    os.register_at_fork(after_in_child=_close_all)


@contextmanager
def locked(folder: Path, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Lock a folder; created if needed, and removed afterwards if nothing was put in it.

    The system releases the lock when the process ends. A file system without locks, as some network
    file systems are, brings a warning.

    Args:
        folder: the folder.
        wait: wait while another process holds the lock, and call this first, with the process.

    Raises:
        BlockingIOError: if another process holds it, and not to ``wait``; the message says which.
        OSError: if the folder cannot be written to.
    """
    created = _create(folder)
    try:
        descriptor = _acquire(folder, wait)
        try:
            yield
        finally:
            if descriptor is not None:
                with suppress(OSError):
                    (folder / NAME).unlink()  # before closing: nobody may lock a removed file
                _close(descriptor)
    finally:
        for path in created:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def _create(folder: Path) -> list[Path]:
    """Create a folder; return the folders that were created, the innermost first."""
    missing = []
    for path in (folder, *folder.parents):
        if os.path.lexists(path):
            break
        missing.append(path)
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _acquire(folder: Path, wait: Callable[[str], None] | None) -> int | None:
    path = folder / NAME
    if fcntl is None:
        _warn(folder)
        return None
    how = fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        folder.mkdir(parents=True, exist_ok=True)  # who held the lock removes it if it is empty
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        _open.add(descriptor)
        try:
            fcntl.flock(descriptor, how)
        except OSError as error:
            holder = _read_holder(descriptor)
            _close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                if wait is not None:
                    wait(holder)
                    how = fcntl.LOCK_EX
                    continue
                raise BlockingIOError(
                    f"fit: another training writes into {folder}: {holder}\n"
                    f"Wait for it, stop it, or give another folder as out"
                ) from None
            if error.errno in _UNSUPPORTED:
                _warn(folder)
                return None
            raise OSError(error.errno, error.strerror, str(path)) from error
        if _is_at(descriptor, path):
            break
        _close(descriptor)  # its holder removed it in the meantime
    with suppress(OSError):  # on a full disk the lock holds without a description
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _this_process(), 0)
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), found)


def _this_process() -> bytes:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since}).encode()


def _read_holder(descriptor: int) -> str:
    """Return a description of the process that holds the lock."""
    try:
        holder = json.loads(os.pread(descriptor, _MAX_BYTES, 0))
        pid, host, since = int(holder["pid"]), str(holder["host"]), str(holder["since"])
    except (OSError, ValueError, TypeError, KeyError):
        return "an unknown process"
    return f"process {pid} on {ascii(host[:100])[1:-1]}, since {ascii(since[:40])[1:-1]}"


def _warn(folder: Path) -> None:
    text = f"fit: {folder} cannot be locked on this system; let no other training write there"
    warnings.warn(text, stacklevel=2)
