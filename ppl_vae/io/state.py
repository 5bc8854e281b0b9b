"""State of a training (optimiser, schedules, random numbers) that is data and nothing else.

A file is one of safetensors, whose tensors are numbered. How they go together with the other
values, in lists, tuples and mappings, stands in its header, as JSON: there is no pickle, and
nothing that could be run. In that JSON, null, true, false, integers, finite numbers, strings and
lists are themselves, and each mapping has one entry, whose key says what it is:

    {"tensor": "3"}  {"float": "inf"}  {"tuple": [...]}
    {"dict": [[key, value], ...]}  {"counter": [[key, value], ...]}
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ppl_vae.errors import describe, path_of, quoted, reason
from ppl_vae.files import read_bytes
from ppl_vae.io.atomic import write_bytes
from ppl_vae.io.errors import DamagedError
from ppl_vae.io.tensors import DTYPES, HEADER, header_length, tensors_and_header
from ppl_vae.io.versions import FORMAT, check_format
from ppl_vae.version import __version__

DEEPEST = 100
"""How deep lists and mappings may be nested."""
LONGEST = 1000
"""Bits of an integer, at most."""
MOST = 500_000
"""Values of a state besides what is in tensors, at most."""

_KEY, _SUM = "ppl_vae_state", "sha256"
_PLAIN = (bool, int, float, str, type(None))
_MAPPINGS = (dict, OrderedDict, Counter)
_TENSORS = (Tensor, nn.Parameter)
_NOT_FINITE = ("inf", "-inf", "nan")


def save_state(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write tensors, numbers, strings, lists, tuples and mappings, nested in any way, at once.

    Everything is read back as it was, bit for bit, but an ``OrderedDict`` as a ``dict``, a
    parameter as a tensor, tensors as contiguous ones, and one tensor in two places as two. A
    ``Counter`` stays one. Numpy's arrays and numbers are refused: use ``torch.from_numpy(...)`` and
    ``.item()``.

    Args:
        state: keys are strings, numbers, None, or tuples of them.
        path: where.

    Raises:
        TypeError: if there is anything else in it; the message names where, such as
            ``state['scheduler']['lr_lambdas'][0]``. Nothing was written.
        OSError: if the file cannot be written; what was there stays.
    """
    if type(state) not in _MAPPINGS:
        raise TypeError(f"save_state: state must be a dict, got {describe(state)}")
    writer = _Writer()
    header = {
        "format": FORMAT,
        "version": __version__,
        "state": writer.written(state, "state", ()),
    }
    # Without spaces, and in ASCII: half a pair of surrogates is no UTF-8.
    text = json.dumps(header, separators=(",", ":"), allow_nan=False)
    metadata = {_KEY: text, _SUM: _checksum(text, writer.tensors)}
    data = safetensors.torch.save(writer.tensors, metadata=metadata)
    if header_length(data) > HEADER:
        raise TypeError(
            f"state is of more than {HEADER} bytes without its tensors, and would not be read "
            f"back; keep long lists and texts as tensors"
        )
    write_bytes(path, data)


def load_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a state back, tensors on the CPU, none of which shares its memory with another.

    Raises:
        OSError: if the file cannot be opened.
        DamagedError: if it is not whole, or not a file that :func:`save_state` wrote.
        NewerFormatError: if a newer version wrote it.
    """
    source = str(path_of("", "path", path))
    data = read_bytes(path, error=DamagedError)
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        raise DamagedError(
            f"{source} is a file of torch.save, a pickle, which might run code and is not read; a "
            f"state is written by save_state"
        )
    tensors, metadata = tensors_and_header(data, source, f"no whole file of {save_state.__name__}")
    text = metadata.get(_KEY)
    if text is None:
        raise DamagedError(f"{source} holds tensors and no state; read it with read_tensors")
    if metadata.get(_SUM) != _checksum(text, tensors):
        raise DamagedError(f"{source} is damaged: its SHA-256 is not the one in its header")
    _refuse_too_many(text, source)
    try:
        header = json.loads(text, parse_int=_integer, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{source}: its state cannot be read: {reason(error)}") from None
    if type(header) is not dict:
        raise DamagedError(f"{source}: its header holds no mapping, got {describe(header)}")
    check_format(source, header.get("format"), header.get("version"))
    reader = _Reader(tensors)
    try:
        state = reader.read(header.get("state"), DEEPEST)
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedError(f"{source}: its state cannot be read: {reason(error)}") from None
    if type(state) is not dict:
        raise DamagedError(f"{source} holds no mapping, got {describe(state)}")
    if reader.tensors:
        raise DamagedError(f"{source} holds tensors that are no part of its state")
    return state


class _Writer:
    """Writes values as JSON, and puts their tensors aside."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._storages: set[int] = set()
        self._count = 0

    def written(self, value: Any, path: str, above: tuple[int, ...]) -> Any:
        """Return JSON for a value."""
        self._count += 1
        if self._count > MOST:
            raise TypeError(
                f"{path}: the state has more than {MOST} values; keep long lists as tensors"
            )
        if type(value) in _TENSORS:
            return {"tensor": self._aside(value, path)}
        if type(value) is int and value.bit_length() > LONGEST:
            raise TypeError(
                f"{path} is an integer of more than {LONGEST} bits, which is not read back"
            )
        if type(value) is float and not math.isfinite(value):
            return {"float": repr(value)}
        if type(value) in _PLAIN:
            return value
        if id(value) in above or len(above) > DEEPEST:
            raise TypeError(f"{path} contains itself, or is nested more than {DEEPEST} deep")
        above = (*above, id(value))
        if type(value) in _MAPPINGS:
            items = [
                [self._key(k, path, above), self.written(v, f"{path}[{quoted(k, 40)}]", above)]
                for k, v in value.items()
            ]
            return {"counter" if type(value) is Counter else "dict": items}
        if type(value) in (list, tuple):
            listed = [self.written(v, f"{path}[{i}]", above) for i, v in enumerate(value)]
            return listed if type(value) is list else {"tuple": listed}
        raise TypeError(
            f"{path} is {describe(value)}, which is not read back from a file; save tensors, "
            f"numbers, strings, lists, tuples and mappings{_instead(value)}"
        )

    def _key(self, key: Any, path: str, above: tuple[int, ...]) -> Any:
        if type(key) not in (*_PLAIN, tuple):
            raise TypeError(
                f"{path} has the key {describe(key)}; keys are strings, numbers, None, or tuples"
            )
        if type(key) is tuple:
            return {"tuple": [self._key(k, path, (*above, id(key))) for k in key]}
        return self.written(key, f"{path}: the key {quoted(key, 40)}", above)

    def _aside(self, value: Tensor, path: str) -> str:
        tensor = value.detach()
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in DTYPES:
            raise TypeError(
                f"{path} is {describe(tensor)}, layout {tensor.layout}, on {tensor.device}; save "
                f"dense tensors of one of "
                f"{', '.join(str(d).removeprefix('torch.') for d in DTYPES)}"
            )
        tensor = tensor.cpu().resolve_conj().resolve_neg().contiguous()
        storage = tensor.untyped_storage()
        # The format has no tensors that overlap: of what others see too, there is a copy.
        whole = storage.nbytes() == tensor.numel() * tensor.element_size()
        if not whole or storage.data_ptr() in self._storages:
            tensor = tensor.clone()
        self._storages.add(tensor.untyped_storage().data_ptr())
        name = str(len(self.tensors))
        self.tensors[name] = tensor
        return name


class _Reader:
    """Reads values from JSON, each tensor once."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self._tags: dict[str, Callable[[Any, int], Any]] = {
            "tensor": self._tensor,
            "float": self._float,
            "tuple": lambda inner, depth: tuple(self._list(inner, depth)),
            "dict": self._mapping,
            "counter": lambda inner, depth: Counter(self._mapping(inner, depth)),
        }

    def read(self, value: Any, depth: int) -> Any:
        """Return the value that JSON describes, at most so deep."""
        if depth < 0:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        if type(value) is list:
            return self._list(value, depth)
        if type(value) is not dict:
            return value
        if len(value) != 1:
            raise ValueError(f"a mapping must have one key, got {len(value)}")
        ((tag, inner),) = value.items()
        if tag not in self._tags:
            raise ValueError(f"there is no kind of value {quoted(tag, 40)}")
        return self._tags[tag](inner, depth)

    def _list(self, value: Any, depth: int) -> list[Any]:
        if type(value) is not list:
            raise TypeError(f"a list was expected, got {quoted(value, 40)}")
        return [self.read(item, depth - 1) for item in value]

    def _mapping(self, value: Any, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        if type(value) is not list or not all(type(i) is list and len(i) == 2 for i in value):
            raise TypeError(f"pairs were expected, got {quoted(value, 40)}")
        for key, item in value:
            read = self.read(key, depth - 1)
            if read in found or not _is_key(read):
                raise ValueError(f"the key {quoted(read, 40)} is there twice, or can be none")
            found[read] = self.read(item, depth - 1)
        return found

    def _tensor(self, name: Any, depth: int) -> Tensor:
        if type(name) is not str or name not in self.tensors:
            raise ValueError(f"there is no tensor {quoted(name, 40)}, or it is there twice")
        return self.tensors.pop(name)

    def _float(self, text: Any, depth: int) -> float:
        if text not in _NOT_FINITE:
            raise ValueError(f"there is no number {quoted(text, 40)}")
        return float(text)


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_key(key: Any) -> bool:
    return all(map(_is_key, key)) if type(key) is tuple else type(key) in _PLAIN


def _refuse_too_many(text: str, source: str) -> None:
    # Before it is read: of a few bytes each, values would fill the memory.
    if text.count(",") + text.count("[") + text.count("{") > 4 * MOST:
        raise DamagedError(f"{source}: its state has more than {MOST} values")


def _integer(digits: str) -> int:
    if len(digits) > LONGEST // 3:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _refused(constant: str) -> float:
    raise ValueError(f"there is no number {constant}")


def _instead(value: object) -> str:
    module = type(value).__module__.partition(".")[0]
    if module == "numpy":
        return " (torch.from_numpy(...) of an array, .item() of a number)"
    if callable(value):
        return " (a function is made anew from numbers that are saved)"
    return " (a tensor's shape as tuple(shape), a set as a list)"
