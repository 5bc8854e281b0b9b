"""A folder's manifest: the sizes and checksums of its files, by which damage is found."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path, PurePosixPath

from ppl_vae.errors import describe, folder_of, quoted, reason
from ppl_vae.files import opened, read_bytes
from ppl_vae.io.atomic import PREFIX, write_file
from ppl_vae.io.errors import DamagedError, UnsafeError
from ppl_vae.io.format import FORMAT, MANIFEST_BYTES, check_format
from ppl_vae.version import __version__

NAME = "manifest.json"


def seal(folder: str | os.PathLike[str]) -> None:
    """Write ``manifest.json``: the size and SHA-256 of every file in the folder and below.

    Raises ValueError if it contains anything but files and folders, such as a link.
    """
    folder = folder_of("seal", folder)
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"seal: {path} is a link or no regular file; put its target there")
        if path.is_file() and name != NAME and not path.name.startswith(PREFIX):
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    manifest = {"format": FORMAT, "ppl_vae": __version__, "files": files}
    write_file(folder / NAME, json.dumps(manifest, indent=2) + "\n")


def check(folder: str | os.PathLike[str]) -> list[str]:
    """Compare every file in the manifest with its size and checksum; return their names.

    Other files are ignored. Raises DamagedError if the manifest cannot be read, or a file is
    missing or differs, and UnsafeError if the manifest names a file outside the folder.
    """
    folder = folder_of("check", folder)
    files = _files(folder)
    resolved: dict[Path, Path] = {}
    paths = {name: _within(folder, name, resolved) for name in files}  # all, before any is read
    for name, entry in files.items():
        _compare(folder, name, paths[name], entry)
    return list(files)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with opened(path, sys.maxsize, error=DamagedError) as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _files(folder: Path) -> dict[str, object]:
    path = folder / NAME
    if not path.is_file():
        raise DamagedError(f"{folder}: {NAME} is missing; the folder may be incomplete")
    if path.is_symlink():
        raise UnsafeError(f"{folder}: {NAME} is a link; it must be a regular file")
    data = read_bytes(path, MANIFEST_BYTES, error=DamagedError)
    try:
        manifest = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{folder}: {NAME} cannot be read: {reason(error, 100)}") from None
    if not isinstance(manifest, dict):
        raise DamagedError(f"{folder}: {NAME} must be a mapping, got {describe(manifest)}")
    check_format(f"{folder}: {NAME}", manifest.get("format"), manifest.get("ppl_vae"))
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise DamagedError(f"{folder}: {NAME}: files must be a mapping, got {describe(files)}")
    return files


def _within(folder: Path, name: str, resolved: dict[Path, Path]) -> Path:
    """Return the path of a listed file, with folders resolved once, as that takes long."""
    parts = PurePosixPath(name).parts
    path = folder.joinpath(*parts)
    strange = not parts or ".." in parts or "\\" in name or "\0" in name
    if strange or PurePosixPath(name).is_absolute() or path.is_symlink():
        raise UnsafeError(f"{folder}: {NAME} lists {quoted(name)}, not a file in this folder")
    for one in (folder, path.parent):
        if one not in resolved:
            resolved[one] = one.resolve()
    if not resolved[path.parent].is_relative_to(resolved[folder]):
        raise UnsafeError(f"{folder}: {NAME} lists {quoted(name)}, outside this folder by a link")
    return path


def _compare(folder: Path, name: str, path: Path, entry: object) -> None:
    where = f"{folder}: {reason(name)}"
    if not isinstance(entry, dict) or type(entry.get("bytes")) is not int:
        raise DamagedError(f"{folder}: {NAME} has no size for {reason(name)}")
    if not path.is_file():
        raise DamagedError(f"{where} is missing")
    size, expected = path.stat().st_size, entry["bytes"]
    if size != expected:
        problem = f"truncated: {size} of" if size < expected else f"too long: {size} instead of"
        raise DamagedError(f"{where} is {problem} {expected} bytes")
    if sha256(path) != entry.get("sha256"):
        raise DamagedError(f"{where} is corrupt: its SHA-256 is not that in {NAME}")
