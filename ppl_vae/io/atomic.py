"""Files and folders that appear complete or not at all, even if the process is killed.

Everything is written under a temporary name beside its place, synchronised to the disk (fsync),
and renamed, which is atomic; then the folder with the new name is synchronised.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ppl_vae.errors import path_of
from ppl_vae.io.errors import UnsafeError

PREFIX = ".ppl-vae-tmp-"
"""How temporary names start."""

# Answers of file systems that cannot synchronise a folder; other errors are real failures.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


@contextmanager
def replaced_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Replace a file atomically once the body of ``with`` has written the temporary path it gets.

    The folder must exist; the suffix is the same. On any failure, KeyboardInterrupt included, the
    old file stays and the temporary one is removed. A link raises UnsafeError.
    """
    target = path_of("", "path", path)
    if target.is_symlink():
        raise UnsafeError(f"{target} is a link; write to its target directly, or remove the link")
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "there is a folder of that name", str(target))
    temporary = _temporary_beside(target)
    try:
        with _naming(target):
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):  # the original failure is what matters
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder atomically, with everything that the body of ``with`` puts into it.

    On any failure nothing is left. Raises FileExistsError if there is something of that name.
    """
    target = path_of("", "path", path)
    _refuse_existing(target)
    temporary = _temporary_beside(target)
    temporary.mkdir()
    try:
        with _naming(target):
            yield temporary
            _sync_tree(temporary)
            _refuse_existing(target)  # rename would replace an empty folder
            os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(target.parent)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless it exists; an OSError names it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot make a folder, {error.strerror}", str(path)) from error


def write_files(contents: Mapping[Path, bytes | str]) -> None:
    """Write several files; none is put in its place before all are on the disk, the last first."""
    with ExitStack() as files:
        for path, content in contents.items():
            file = files.enter_context(replaced_file(path))
            data = content.encode("utf-8") if isinstance(content, str) else content
            with _naming(path):
                file.write_bytes(data)


def write_file(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Replace a file atomically by bytes, or by text in UTF-8; on failure the old file stays."""
    write_files({path_of("", "path", path): content})


def refuse_links(folder: str | os.PathLike[str], but: Callable[[Path], bool] | None = None) -> None:
    """Raise UnsafeError if there is a link anywhere in a folder, except where ``but`` allows it.

    Through a link, files outside the folder would be overwritten or removed. None is followed. The
    folder need not exist, and may itself be reached by a link.
    """
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            inner = Path(path, name)
            if inner.is_symlink() and not (but is not None and but(inner)):
                raise UnsafeError(
                    f"{inner} is a link, and files in the folder of a run are overwritten and "
                    f"removed; copy its target here, or remove it"
                )


def clear_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove the temporary files and folders that killed processes left in a folder; return them.

    Only safe while no other process is writing there.
    """
    leftovers = sorted(path_of("clear_leftovers", "folder", folder).glob(f"{PREFIX}*"))
    for path in leftovers:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return leftovers


def sync_folder(path: Path) -> None:
    """Synchronise a folder's entries to the disk, where the file system can do that."""
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Name the file in errors that name none, such as that of a full disk, or the temporary one."""
    try:
        yield
    except OSError as error:
        names_another = error.filename is not None and PREFIX not in str(error.filename)
        if names_another or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error


def _temporary_beside(target: Path) -> Path:
    # From the system's randomness: independent of the user's seeds, and without drawing from them.
    return target.with_name(f"{PREFIX}{secrets.token_hex(8)}{target.suffix}")


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise FileExistsError(
            errno.EEXIST, "there is something of that name; remove it or choose another", target
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with _naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            if not Path(path, name).is_symlink():
                _sync(Path(path, name))
        sync_folder(Path(path))
