"""Safe reading of NumPy files: no pickles, no more memory than the file is long."""

from __future__ import annotations

import io
import math
import mmap
import os
import sys
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from ppl_vae.errors import quoted, reason
from ppl_vae.files import memory, opened

_MAX_DIRECTORY = 2**20
"""Bytes of an archive's directory, at most."""
_MAX_HEADER = 2**16
"""Bytes of an array's header, at most."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression by np.savez and np.savez_compressed."""
_OTHER_METHODS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma"}
_BOMB = 2**28, 200
"""Arrays of more bytes than the first must not be compressed by more than the second."""


def read_arrays(path: Path, keys: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays named by ``keys`` in a ``.npz`` file, and the names of all its arrays.

    The array of a ``.npy`` file is named ``x``. Raises OSError or ValueError.
    """
    with opened(path) as file:
        try:
            if file.read(2) != b"PK":
                file.seek(0)
                return {"x": _array(file, os.fstat(file.fileno()).st_size)}, ["x"]
            return _archive(file, keys)
        except (EOFError, MemoryError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(reason(error)) from error
        except (KeyError, NotImplementedError, RuntimeError) as error:  # unusual archives
            raise ValueError(f"the archive cannot be read, {reason(error)}") from error


_MAPPED = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
"""Dtypes that need no conversion, which would be a copy."""
# Pages that are written to are the process's own, and none is reserved: the file may be larger than
# the memory. Python 3.10 lacks the name; elsewhere than on Linux memory is not reserved beforehand.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


def map_array(path: Path) -> np.ndarray:
    """Return the array of a ``.npy`` file, whose values are read from the disk as they are used.

    The file is never written to. Booleans come as uint8. Raises OSError or ValueError.
    """
    with opened(path, sys.maxsize) as file:
        try:
            shape, in_columns, dtype, start = _header(file, os.fstat(file.fileno()).st_size)
        except (EOFError, MemoryError) as error:
            raise ValueError(reason(error)) from error
        if dtype.name not in _MAPPED or not dtype.isnative or (in_columns and len(shape) > 1):
            got = f"{dtype.str}, in Fortran order" if in_columns else dtype.str
            raise ValueError(
                f"memory_map=True needs {', '.join(_MAPPED)}, in this machine's byte order and in "
                f"C order, got {got}"
            )
        if os.name == "posix":
            flags, access = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            pages = mmap.mmap(file.fileno(), 0, flags=flags, prot=access)
        else:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    values = np.frombuffer(pages, np.uint8 if dtype.kind == "b" else dtype, offset=start)
    return values.reshape(shape)


def _archive(file: BinaryIO, keys: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    with zipfile.ZipFile(_DirectoryReader(file)) as archive:
        found: dict[str, np.ndarray] = {}
        names = [entry.filename.removesuffix(".npy") for entry in archive.infolist()]
        for key in keys:
            if names.count(key) > 1:
                raise ValueError(f"duplicate array {quoted(key)}")
            if key in names:
                entry = archive.infolist()[names.index(key)]
                _check_compression(key, entry)
                with zipfile.ZipFile(file) as whole, whole.open(entry) as stream:
                    found[key] = _array(stream, entry.file_size, f"of {quoted(key)}, ")
    return found, names


class _DirectoryReader(io.RawIOBase):
    """A file whose reads are limited to an archive's directory."""

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
        if size > _MAX_DIRECTORY:
            raise ValueError(f"its directory is longer than {_MAX_DIRECTORY} bytes")
        return self._file.read(_MAX_DIRECTORY if size < 0 else size)


def _check_compression(key: str, entry: zipfile.ZipInfo) -> None:
    """Raise ValueError, before decompressing, for what NumPy would not have written."""
    if entry.compress_type not in _METHODS:
        number = entry.compress_type
        method = _OTHER_METHODS.get(number, f"method {number}")
        expected = "uncompressed or deflated, as np.savez writes it"
        raise ValueError(f"{quoted(key)} must be {expected}, got {method}")
    size, ratio = _BOMB
    if entry.file_size > size and entry.compress_size < entry.file_size // ratio:
        raise ValueError(
            f"{quoted(key)} claims {entry.file_size} bytes, compressed to {entry.compress_size}; "
            f"if that is right, write it uncompressed, with np.savez"
        )


def _header(stream: Any, size: int, which: str = "") -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Read the header of an array in a stream of so many bytes.

    Return the shape, whether it is in columns, the dtype, and where the values begin.
    """
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"unknown version {version} of the format")
    head = stream.read(2 if version == (1, 0) else 4)
    if (length := int.from_bytes(head, "little")) > _MAX_HEADER:
        raise ValueError(f"its header is longer than {_MAX_HEADER} bytes")
    head += stream.read(length)
    # Version 3 differs from version 2 in the encoding of the header alone.
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, in_columns, dtype = read(io.BytesIO(head), max_header_size=_MAX_HEADER)
    except (RecursionError, SyntaxError, TypeError) as error:
        raise ValueError(f"its header cannot be read, {reason(error)}") from error
    if dtype.hasobject:
        raise ValueError(
            f"{which}the entries are Python objects, which would be unpickled; convert numbers "
            f"with .astype(float), strings with .astype(str)"
        )
    if any(side < 0 for side in shape):
        raise ValueError(f"its header has the shape {quoted(shape)}")
    needed = math.prod(shape) * dtype.itemsize
    if needed != (found := size - (start := 8 + len(head))):
        raise ValueError(f"its header promises {quoted(needed)} bytes, got {found}")
    return shape, in_columns, dtype, start


def _array(stream: Any, size: int, which: str = "") -> np.ndarray:
    """Return the array in a stream of so many bytes."""
    shape, in_columns, dtype, start = _header(stream, size, which)
    needed = size - start
    if needed > memory():
        raise ValueError(f"it needs {needed} bytes of memory, more than this machine has")
    values = np.frombuffer(_read_exactly(stream, needed), dtype)
    return values.reshape(shape, order="F" if in_columns else "C")


def _read_exactly(stream: Any, size: int) -> bytearray:
    data, at = bytearray(size), 0
    view = memoryview(data)
    while at < size:
        part = stream.readinto(view[at : at + 2**24])
        if not part:
            raise ValueError(f"it is truncated, after {at} of {size} bytes")
        at += part
    return data
