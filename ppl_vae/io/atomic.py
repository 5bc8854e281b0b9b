"""Files and folders that are there whole or not at all, whenever the process or the machine stops.

Everything is written beside its place, brought to the disk (fsync), and renamed, which happens at
once; then the rename is brought to the disk.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ppl_vae.errors import path_of
from ppl_vae.io.errors import UnsafeError

PREFIX = ".ppl-vae-tmp-"
"""How the names of temporary files and folders start."""

# What file systems answer that cannot bring a folder to the disk; others tell of a failure.
_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


@contextmanager
def replaced_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Put a file in the place of what is there, at once, when its writing has succeeded.

    Args:
        path: where; the folder must exist.

    Yields:
        A path in the same folder, to be written to, with the same suffix.

    Raises:
        OSError: if it cannot be written. On this and on any other failure, an interrupt by the
            keyboard too, the file that was there stays as it was and nothing else is left.
        UnsafeError: if there is a link of that name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replaced_file(Path(folder) / "numbers.csv") as file:
        ...         _ = file.write_text("1,2,3")
        ...     os.listdir(folder)
        ['numbers.csv']
    """
    target = path_of("", "path", path)
    if target.is_symlink():
        raise UnsafeError(
            f"{target} is a link; write to what it leads to, by its own name, or remove the link"
        )
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "there is a folder of that name", str(target))
    temporary = _beside(target)
    try:
        with _named(target):
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):  # the failure itself is what matters
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder that appears at once, with all that is in it, when its filling has succeeded.

    Args:
        path: where; the folder that it is in must exist.

    Yields:
        A folder beside it, to be filled.

    Raises:
        FileExistsError: if there is something of that name.
        OSError: if it cannot be written. On any failure nothing is left of it.
    """
    target = path_of("", "path", path)
    _refuse_existing(target)
    temporary = _beside(target)
    temporary.mkdir()
    try:
        with _named(target):
            yield temporary
            _sync_tree(temporary)
            _refuse_existing(target)  # an empty folder would be replaced
            os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(target.parent)


def make_folder(path: Path) -> None:
    """Make a folder, and those that it is in, unless it is there.

    Raises:
        OSError: if it cannot be made, such as where a file is; the message names it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"no folder can be made, {error.strerror}", str(path)) from error


def write_bytes(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Put bytes in the place of a file, at once.

    Raises:
        OSError: if they cannot be written; the file that was there stays as it was.
    """
    with replaced_file(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def refuse_links(folder: str | os.PathLike[str], but: Callable[[Path], bool] | None = None) -> None:
    """Raise an error if there is a link in a folder, or below.

    What is written, renamed and removed through a link lies outside the folder, where nobody looks.
    The folder itself may be reached by one. Nothing is followed.

    Args:
        folder: need not be there.
        but: tells which links may be there.

    Raises:
        UnsafeError: if there is one; the message names it.
    """
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            inner = Path(path, name)
            if inner.is_symlink() and not (but is not None and but(inner)):
                raise UnsafeError(
                    f"{inner} is a link; the folder of a run holds its files itself, as they are "
                    f"written over and removed. Copy here what it leads to, or remove it"
                )


def clear_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove the temporary files and folders that killed processes left in a folder.

    Only for a folder where nobody is writing: what another process is about to finish goes too.

    Returns:
        The paths that were removed; none where there is no such folder.

    Raises:
        OSError: if one cannot be removed.
    """
    removed = []
    for path in sorted(path_of("clear_leftovers", "folder", folder).glob(f"{PREFIX}*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        removed.append(path)
    return removed


def sync_folder(path: Path) -> None:
    """Bring a folder to the disk, with the names of what is in it, where the disk can do that."""
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """Name the file in errors of the system that name none, as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error


def _beside(target: Path) -> Path:
    # From the system's randomness: a seed of the user's decides nothing here, nor is it used up.
    return target.with_name(f"{PREFIX}{secrets.token_hex(8)}{target.suffix}")


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise FileExistsError(
            errno.EEXIST, "there is something of that name; remove it or choose another", target
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with _named(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            if not Path(path, name).is_symlink():
                _sync(Path(path, name))
        sync_folder(Path(path))
