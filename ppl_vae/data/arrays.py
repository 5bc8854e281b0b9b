"""NumPy's files, read with no more memory than they are long, and no pickles."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from ppl_vae.errors import quoted, reason
from ppl_vae.files import memory, opened

_NAMES = 2**20
"""Bytes of an archive's list of its arrays, at most."""
_HEADER = 2**16
"""Bytes of an array's header, at most."""
_METHODS = {zipfile.ZIP_STORED: "uncompressed", zipfile.ZIP_DEFLATED: "deflated"}
"""How numpy writes: np.savez and np.savez_compressed."""
_OTHERS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma"}
_ZEROS = 2**28, 200
"""An array of an archive that is greater than the first may be compressed to this share."""


def read_arrays(path: Path, keys: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays of some names in a ``.npz`` file, and all names that it has.

    A ``.npy`` file has the one name ``x``.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is no such file, is damaged, or claims to be more than it is.
    """
    with opened(path) as file:
        try:
            if file.read(2) != b"PK":
                file.seek(0)
                return {"x": _array(file, os.fstat(file.fileno()).st_size)}, ["x"]
            return _archive(file, keys)
        except (EOFError, MemoryError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(reason(error)) from error
        except (KeyError, NotImplementedError, RuntimeError) as error:  # of odd archives
            raise ValueError(f"the archive cannot be read, {reason(error)}") from error


def _archive(file: BinaryIO, keys: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    with zipfile.ZipFile(_Short(file)) as archive:
        found: dict[str, np.ndarray] = {}
        names = [entry.filename.removesuffix(".npy") for entry in archive.infolist()]
        for key in keys:
            if names.count(key) > 1:
                raise ValueError(f"it has the array {quoted(key)} twice")
            if key in names:
                entry = archive.infolist()[names.index(key)]
                _refuse_unusual(key, entry)
                with zipfile.ZipFile(file) as whole, whole.open(entry) as stream:
                    try:
                        found[key] = _array(stream, entry.file_size)
                    except _PickledError as error:
                        raise ValueError(f"of {quoted(key)}, {error}") from None
    return found, names


class _PickledError(ValueError):
    """An array of Python objects."""

    def __init__(self) -> None:
        super().__init__(
            "the entries are Python objects, which are pickled; convert them with .astype(float), "
            "or text with .astype(str), where there is none '' before"
        )


class _Short(io.RawIOBase):
    """A file of which the end is read, where an archive's list is, if that is not long."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        if size > _NAMES:
            raise ValueError(f"its list of arrays is longer than {_NAMES} bytes")
        return self._file.read(_NAMES if size < 0 else size)


def _refuse_unusual(key: str, entry: zipfile.ZipInfo) -> None:
    """Refuse, before anything is decompressed, what numpy would not have written."""
    if entry.compress_type not in _METHODS:
        number = entry.compress_type
        method = _OTHERS.get(number, f"method {number}")
        raise ValueError(
            f"{quoted(key)} is compressed by {method}, and numpy reads and writes only "
            f"{' and '.join(_METHODS.values())} arrays; write it with np.savez"
        )
    size, share = _ZEROS
    if entry.file_size > size and entry.compress_size < entry.file_size // share:
        raise ValueError(
            f"{quoted(key)} claims {entry.file_size} bytes and has {entry.compress_size} in the "
            f"file; if that is right, write it with np.savez, uncompressed"
        )


def _array(stream: Any, size: int) -> np.ndarray:
    """Return the array in a stream of so many bytes."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"there is no version {version} of the format")
    length = stream.read(2 if version == (1, 0) else 4)
    if int.from_bytes(length, "little") > _HEADER:
        raise ValueError(f"its header is longer than {_HEADER} bytes")
    text = stream.read(int.from_bytes(length, "little"))
    # A header of version 3 is one of version 2 in another encoding, which the numbers do not need.
    head = io.BytesIO(length + text)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, in_columns, dtype = read(head, max_header_size=_HEADER)
    except (RecursionError, SyntaxError, TypeError) as error:
        raise ValueError(f"its header cannot be read, {reason(error)}") from error
    if dtype.hasobject:
        raise _PickledError
    count = 1
    for length_ in shape:
        if length_ < 0:
            raise ValueError(f"its header gives {quoted(shape)} as its shape")
        count *= length_
    needed = count * dtype.itemsize
    there = size - 8 - len(length) - len(text)
    if needed != there:
        raise ValueError(f"its header promises {quoted(needed)} bytes, and {there} follow")
    if needed > memory():
        raise ValueError(f"it needs {needed} bytes of memory, more than this machine has")
    values = np.frombuffer(_exactly(stream, needed), dtype)
    return values.reshape(shape, order="F" if in_columns else "C")


def _exactly(stream: Any, size: int) -> bytearray:
    data, at = bytearray(size), 0
    view = memoryview(data)
    while at < size:
        part = stream.readinto(view[at : at + 2**24])
        if not part:
            raise ValueError(f"it is cut short, after {at} of {size} bytes")
        at += part
    return data
