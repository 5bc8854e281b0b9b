"""Training states (optimisers, schedules, random states) as safetensors and JSON.

Tensors are numbered; a JSON text in the file's header says how they combine with other values in
lists, tuples and mappings. There is no pickle, and nothing that could be run. In the JSON, null,
booleans, integers, finite floats, strings and lists stand for themselves; a mapping has one entry,
whose key is a tag:

    {"tensor": "3"}  {"float": "inf"}  {"tuple": [...]}
    {"dict": [[key, value], ...]}  {"counter": [[key, value], ...]}
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ppl_vae.errors import describe, path_of, quoted, reason
from ppl_vae.files import read_bytes
from ppl_vae.io.atomic import write_file
from ppl_vae.io.errors import DamagedError, StorageError
from ppl_vae.io.format import (
    FORMAT,
    HEADER_BYTES,
    INTEGER_BITS,
    STATE_DEPTH,
    STATE_VALUES,
    check_format,
)
from ppl_vae.io.tensors import check_storable, header_length, own_memory, tensors_and_metadata
from ppl_vae.version import __version__

_KEY, _SUM = "ppl_vae_state", "sha256"
_SCALARS = (bool, int, float, str, type(None))
_MAPPINGS = (dict, OrderedDict, Counter)


def save_state(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write nested tensors, numbers, strings, lists, tuples and mappings, atomically.

    Everything comes back bit for bit, except that an ``OrderedDict`` becomes a ``dict``, a
    parameter a tensor, and one tensor in two places two tensors. NumPy's arrays and numbers are
    refused: use ``torch.from_numpy(...)`` and ``.item()``.

    Args:
        state: its keys are strings, numbers, None, or tuples of them.
        path: of the file.

    Raises:
        TypeError: if it contains anything else; the message names the place, such as
            ``state['scheduler']['lr_lambdas'][0]``. Nothing was written.
        OSError: if the file cannot be written; the old one stays.
    """
    if type(state) not in _MAPPINGS:
        raise TypeError(f"save_state: state must be a dict, got {describe(state)}")
    writer = _Writer()
    encoded = writer.encode(state, "state", ())
    header = {"format": FORMAT, "version": __version__, "state": encoded}
    # In ASCII, as lone surrogates have no UTF-8.
    text = json.dumps(header, separators=(",", ":"), allow_nan=False)
    metadata = {_KEY: text, _SUM: _checksum(text, writer.tensors)}
    data = safetensors.torch.save(writer.tensors, metadata=metadata)
    if header_length(data) > HEADER_BYTES:
        raise TypeError(
            f"state has more than {HEADER_BYTES} bytes without its tensors, and could not be read "
            f"back; store long lists and texts as tensors"
        )
    write_file(path, data)


def load_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a state back, with its tensors on the CPU, none of which share memory.

    Raises:
        OSError: if the file cannot be opened.
        DamagedError: if it is incomplete or corrupt, or was not written by :func:`save_state`.
        NewerFormatError: if a newer version wrote it.
    """
    source = str(path_of("", "path", path))
    data = read_bytes(path, error=DamagedError)
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        raise DamagedError(
            f"{source} is a file of torch.save, a pickle, which could run code and is not read; "
            f"write states with save_state"
        )
    tensors, metadata = tensors_and_metadata(data, source, "file of save_state")
    text = metadata.get(_KEY)
    if text is None:
        raise DamagedError(f"{source} holds tensors but no state; load it with load_weights")
    if metadata.get(_SUM) != _checksum(text, tensors):
        raise DamagedError(f"{source} is corrupt: its SHA-256 is not that in its header")
    # Before parsing: values of a few bytes each could fill the memory.
    if text.count(",") + text.count("[") + text.count("{") > 4 * STATE_VALUES:
        raise DamagedError(f"{source}: its state has more than {STATE_VALUES} values")
    reader = _Reader(tensors)
    try:
        header = json.loads(text, parse_int=_integer, parse_constant=_refuse_constant)
        if type(header) is not dict:
            raise TypeError(f"the header must be a mapping, got {describe(header)}")
        check_format(source, header.get("format"), header.get("version"))
        state = reader.decode(header.get("state"), STATE_DEPTH)
        if type(state) is not dict:
            raise TypeError(f"it must be a mapping, got {describe(state)}")
        if reader.tensors:
            raise ValueError("the file holds tensors that are not part of it")
    except StorageError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedError(f"{source}: its state cannot be read: {reason(error)}") from None
    return state


class _Writer:
    """Encodes values as JSON and collects their tensors."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._storages: set[int] = set()
        self._count = 0

    def encode(self, value: Any, path: str, above: tuple[int, ...]) -> Any:
        """Return JSON for a value; ``above`` has the ids of the containers that it is in."""
        self._count += 1
        if self._count > STATE_VALUES:
            raise TypeError(f"{path}: more than {STATE_VALUES} values; store long lists as tensors")
        if type(value) in (Tensor, nn.Parameter):
            check_storable(path, value)
            name = str(len(self.tensors))
            self.tensors[name] = own_memory(value, self._storages)
            return {"tensor": name}
        if type(value) is int and value.bit_length() > INTEGER_BITS:
            raise TypeError(f"{path} is an integer of more than {INTEGER_BITS} bits")
        if type(value) is float and not math.isfinite(value):
            return {"float": repr(value)}
        if type(value) in _SCALARS:
            return value
        if id(value) in above or len(above) > STATE_DEPTH:
            raise TypeError(
                f"{path} is a circular reference, or nested more than {STATE_DEPTH} deep"
            )
        above = (*above, id(value))
        if type(value) in _MAPPINGS:
            items = [
                [self._key(k, path, above), self.encode(v, f"{path}[{quoted(k, 40)}]", above)]
                for k, v in value.items()
            ]
            return {"counter" if type(value) is Counter else "dict": items}
        if type(value) in (list, tuple):
            items = [self.encode(v, f"{path}[{i}]", above) for i, v in enumerate(value)]
            return items if type(value) is list else {"tuple": items}
        raise TypeError(
            f"{path} is {describe(value)}, which cannot be read back; save tensors, numbers, "
            f"strings, lists, tuples and mappings{_advice(value)}"
        )

    def _key(self, key: Any, path: str, above: tuple[int, ...]) -> Any:
        if type(key) not in (*_SCALARS, tuple):
            kinds = "strings, numbers, None, or tuples"
            raise TypeError(f"{path} has the key {describe(key)}; keys are {kinds}")
        if type(key) is tuple:
            return {"tuple": [self._key(k, path, (*above, id(key))) for k in key]}
        return self.encode(key, f"{path}: the key {quoted(key, 40)}", above)


class _Reader:
    """Decodes values from JSON, using each tensor once."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def decode(self, value: Any, depth: int) -> Any:
        """Return the value that JSON describes, nested at most ``depth`` deep."""
        if depth < 0:
            raise ValueError(f"it is nested more than {STATE_DEPTH} deep")
        if type(value) is list:
            return self._list(value, depth)
        if type(value) is not dict:
            return value
        if len(value) != 1:
            raise ValueError(f"a mapping must have one key, got {len(value)}")
        match next(iter(value.items())):
            case "tensor", str(name) if name in self.tensors:
                return self.tensors.pop(name)
            case "float", "inf" | "-inf" | "nan" as number:
                return float(number)
            case "tuple", items:
                return tuple(self._list(items, depth))
            case "dict", items:
                return self._mapping(items, depth)
            case "counter", items:
                return Counter(self._mapping(items, depth))
        raise ValueError(f"unknown tag, tensor or number {quoted(value, 60)}")

    def _list(self, value: Any, depth: int) -> list[Any]:
        if type(value) is not list:
            raise TypeError(f"expected a list, got {quoted(value, 40)}")
        return [self.decode(item, depth - 1) for item in value]

    def _mapping(self, value: Any, depth: int) -> dict[Any, Any]:
        decoded: dict[Any, Any] = {}
        if type(value) is not list or not all(type(i) is list and len(i) == 2 for i in value):
            raise TypeError(f"expected pairs, got {quoted(value, 40)}")
        for item in value:
            key = self.decode(item[0], depth - 1)
            if key in decoded or not _is_key(key):
                raise ValueError(f"invalid or duplicate key {quoted(key, 40)}")
            decoded[key] = self.decode(item[1], depth - 1)
        return decoded


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_key(key: Any) -> bool:
    return all(map(_is_key, key)) if type(key) is tuple else type(key) in _SCALARS


def _integer(digits: str) -> int:
    if len(digits) > INTEGER_BITS // 3:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"invalid number {constant}")


def _advice(value: object) -> str:
    if type(value).__module__.partition(".")[0] == "numpy":
        return " (torch.from_numpy(...) of an array, .item() of a number)"
    if callable(value):
        return " (instead of a function, the numbers it is made from)"
    return " (a tensor's shape as tuple(shape), a set as a list)"
