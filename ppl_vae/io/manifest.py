"""A folder's list of its files with their sizes and checksums, by which damage is found."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path, PurePosixPath

from ppl_vae.errors import describe, path_of, quoted, reason
from ppl_vae.files import opened, read_bytes
from ppl_vae.io.atomic import PREFIX, write_bytes
from ppl_vae.io.errors import DamagedError, UnsafeError
from ppl_vae.io.versions import FORMAT, check_format
from ppl_vae.version import __version__

NAME = "manifest.json"
LARGEST = 2**20
"""Bytes of a manifest, at most."""


def seal(folder: str | os.PathLike[str]) -> None:
    """Write ``manifest.json``: the size and the SHA-256 of every file in the folder, and below.

    Raises:
        ValueError: if there is something else than files and folders in it, such as a link.
        OSError: if a file cannot be read, or the manifest not be written.
    """
    folder = path_of("seal", "folder", folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {reason(str(folder), 500)}")
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(
                f"seal: {path} is a link or no file; a sealed folder holds its files itself"
            )
        if path.is_file() and name != NAME and not path.name.startswith(PREFIX):
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    listed = {"format": FORMAT, "ppl_vae": __version__, "files": files}
    write_bytes(folder / NAME, (json.dumps(listed, indent=2) + "\n").encode())


def check(folder: str | os.PathLike[str]) -> list[str]:
    """Compare every file that the manifest lists with what it says; others are not looked at.

    Returns:
        The names of the files, relative to the folder.

    Raises:
        FileNotFoundError: if there is no such folder.
        DamagedError: if the manifest cannot be read, or a file is missing, has another size or
            another checksum; the message names the folder, the file and what is wrong.
        UnsafeError: if the manifest names a file outside the folder.
        NewerFormatError: if a newer version wrote it.
    """
    folder = path_of("check", "folder", folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {reason(str(folder), 500)}")
    files = _files(folder)
    resolved: dict[Path, Path] = {}
    paths = {name: _within(folder, name, resolved) for name in files}  # all, before any is read
    for name, entry in files.items():
        _compare(folder, name, paths[name], entry)
    return list(files)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with opened(path, sys.maxsize, error=DamagedError) as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _files(folder: Path) -> dict[str, object]:
    path = folder / NAME
    if not path.is_file():
        raise DamagedError(
            f"{folder}: {NAME} is missing, so that it cannot be told whether the folder is whole"
        )
    if path.is_symlink():
        raise UnsafeError(f"{folder}: {NAME} is a link; a sealed folder holds its files itself")
    data = read_bytes(path, LARGEST, error=DamagedError)
    try:
        listed = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{folder}: {NAME} cannot be read: {reason(error, 100)}") from None
    if not isinstance(listed, dict):
        raise DamagedError(f"{folder}: {NAME} holds no mapping, got {describe(listed)}")
    check_format(f"{folder}: {NAME}", listed.get("format"), listed.get("ppl_vae"))
    files = listed.get("files")
    if not isinstance(files, dict):
        raise DamagedError(f"{folder}: {NAME} lists no files, got {describe(files)}")
    return files


def _within(folder: Path, name: str, resolved: dict[Path, Path]) -> Path:
    """Return the path of a file; folders are resolved once, which takes long."""
    parts = PurePosixPath(name).parts
    path = folder.joinpath(*parts)
    strange = not parts or ".." in parts or "\\" in name or "\0" in name
    if strange or PurePosixPath(name).is_absolute() or path.is_symlink():
        raise UnsafeError(f"{folder}: {NAME} names {quoted(name)}, which is no file of this folder")
    for one in (folder, path.parent):
        if one not in resolved:
            resolved[one] = one.resolve()
    if not resolved[path.parent].is_relative_to(resolved[folder]):
        raise UnsafeError(
            f"{folder}: {NAME} names {quoted(name)}, which a link leads out of this folder"
        )
    return path


def _compare(folder: Path, name: str, path: Path, entry: object) -> None:
    if not isinstance(entry, dict) or type(entry.get("bytes")) is not int:
        raise DamagedError(f"{folder}: {NAME} does not say how long {reason(name)} is")
    if not path.is_file():
        raise DamagedError(f"{folder}: {reason(name)} is missing")
    size, expected = path.stat().st_size, entry["bytes"]
    if size < expected:
        raise DamagedError(f"{folder}: {reason(name)} is truncated: {size} of {expected} bytes")
    if size > expected:
        raise DamagedError(
            f"{folder}: {reason(name)} is too long: {size} instead of {expected} bytes"
        )
    if sha256(path) != entry.get("sha256"):
        raise DamagedError(
            f"{folder}: {reason(name)} is damaged: its SHA-256 is not that of the manifest"
        )
