"""Safe reading of files that strangers may have written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ppl_vae.errors import quoted

_SPARSE_BYTES, _SPARSE_RATIO = 2**28, 1000
"""From which size on, and by how much, a file larger than its space on the disk is refused."""
# These flags exist on some systems only.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def memory() -> int:
    """Return the machine's memory in bytes, the default limit for a file."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not POSIX: 64 GiB
        return 2**36


@contextmanager
def opened(
    path: str | os.PathLike[str],
    most: int | None = None,
    *,
    error: type[Exception] = ValueError,
    fix: str = "",
) -> Iterator[BinaryIO]:
    """Open a regular file, or a link to one, of at most ``most`` bytes, by default the memory's.

    Pipes and devices are refused, as reading them may block or never end, and so are sparse files,
    a few bytes that claim to be very many. ``error`` is raised for what is refused; ``fix`` says
    what to do about a file that is too long.
    """
    path = Path(path)
    _refuse(path, os.stat(path), most, error, fix)  # before opening, which affects devices
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
    """Return the content of a regular file, see :func:`opened`."""
    with opened(path, most, error=error, fix=fix) as file:
        data = file.read(os.fstat(file.fileno()).st_size)
        if file.read(1):  # some system files claim to be empty
            raise error(f"{quoted(os.fspath(path))} is longer than it claims, and was not read")
    return data


def _refuse(
    path: Path, about: os.stat_result, most: int | None, error: type[Exception], fix: str
) -> None:
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(21, "expected a file, got a folder", str(path))
    if not stat.S_ISREG(about.st_mode):
        raise error(f"{quoted(path)} is not a regular file, but a pipe, a socket or a device")
    most = memory() if most is None else most
    if about.st_size > most:
        advice = f"; {fix}" if fix else ""
        raise error(f"{quoted(path)} is longer than {most} bytes, and was not read{advice}")
    on_disk = getattr(about, "st_blocks", about.st_size) * 512
    if about.st_size > _SPARSE_BYTES and on_disk < about.st_size // _SPARSE_RATIO:
        raise error(
            f"{quoted(path)} claims {about.st_size} bytes and has {on_disk} on the disk: sparse "
            f"files are not read"
        )
