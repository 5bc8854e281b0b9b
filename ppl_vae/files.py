"""Files that somebody else may have written, read without surprises."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ppl_vae.errors import quoted

_SPARSE = 2**28, 1000
# Both matter on some systems alone.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def memory() -> int:
    """Return how many bytes of memory the machine has: no more can be read from one file."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # no POSIX: 64 GiB
        return 2**36


@contextmanager
def opened(
    path: str | os.PathLike[str],
    most: int | None = None,
    *,
    error: type[Exception] = ValueError,
    fix: str = "",
) -> Iterator[BinaryIO]:
    """Open a file for reading, if it is one.

    A pipe or a device is not opened: to read it might wait for ever, or never end. Nor is a file
    that is nearly all holes, a few bytes that claim to be very many.

    Args:
        path: where; a link to a file is as good as the file.
        most: bytes, at most; the machine's memory if not given.
        error: what to raise for what is not read.
        fix: what to do about a file that is too long, for the message.

    Raises:
        OSError: if it cannot be opened.
    """
    path = Path(path)
    _refuse(path, os.stat(path), most, error, fix)  # before it is opened, which acts on devices
    descriptor = os.open(path, _FLAGS)
    with open(descriptor, "rb") as file:
        _refuse(path, os.fstat(descriptor), most, error, fix)
        yield file


def read_bytes(
    path: str | os.PathLike[str],
    most: int | None = None,
    *,
    error: type[Exception] = ValueError,
    fix: str = "",
) -> bytes:
    """Return what is in a file, see :func:`opened`."""
    with opened(path, most, error=error, fix=fix) as file:
        data = file.read(os.fstat(file.fileno()).st_size)
        if file.read(1):  # some files of the system say that they are empty
            raise error(f"{quoted(os.fspath(path))} is longer than it says, and was not read")
    return data


def _refuse(
    path: Path, about: os.stat_result, most: int | None, error: type[Exception], fix: str
) -> None:
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(21, "it is a folder, where a file is expected", str(path))
    if not stat.S_ISREG(about.st_mode):
        raise error(f"{quoted(path)} is no file with data, but a pipe, a socket or a device")
    most = memory() if most is None else most
    if about.st_size > most:
        raise error(_too_long(path, most, fix))
    size, share = _SPARSE
    on_disk = getattr(about, "st_blocks", about.st_size) * 512
    if about.st_size > size and on_disk < about.st_size // share:
        raise error(
            f"{quoted(path)} claims {about.st_size} bytes and has {on_disk} on the disk: it is "
            f"nearly all holes, and was not read"
        )


def _too_long(path: Path, most: int, fix: str) -> str:
    advice = f"; {fix}" if fix else ""
    return f"{quoted(path)} is longer than {most} bytes, and was not read{advice}"
