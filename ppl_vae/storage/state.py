"""State of a training (optimiser, schedules, random numbers) that is data and nothing else.

The file is torch's own, read with ``weights_only=True``. That alone has had holes (CVE-2025-32434
up to torch 2.5, CVE-2026-24747 up to 2.9), so what the file names is looked at before torch sees
it, and only the one format that is written here is read.
"""

from __future__ import annotations

import io
import os
import pickletools
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.errors import describe
from ppl_vae.storage.atomic import write_bytes
from ppl_vae.storage.errors import DamagedError, UnsafeError

DEEPEST = 100
"""How deep lists and mappings may be nested."""
LONGEST = 1000
"""Bits of an integer, at most: torch reads no more than 255 bytes."""

_PLAIN = (bool, int, float, str, type(None))
_MAPPINGS = (dict, OrderedDict, Counter)
_TENSORS = (Tensor, nn.Parameter)
_NAMES = {
    "collections": {"OrderedDict", "Counter"},
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_tensor_v3"},
    "torch.storage": {"UntypedStorage"},
}


def save_state(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write tensors, numbers, strings, lists, tuples and mappings, nested in any way, at once.

    Everything is read back as it was, but an ``OrderedDict`` as a ``dict``, and a parameter as a
    tensor. A ``Counter`` stays one. Numpy's arrays and numbers are refused: use
    ``torch.from_numpy(...)`` and ``.item()``.

    Args:
        state: keys are strings, numbers, None, or tuples of them.
        path: where.

    Raises:
        TypeError: if there is anything else in it; the message names where, such as
            ``state['scheduler']['lr_lambdas'][0]``. Nothing was written.
        OSError: if the file cannot be written; what was there stays.
    """
    buffer = io.BytesIO()
    torch.save(_copy(state, "state", ()), buffer)
    write_bytes(path, buffer.getbuffer())


def load_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a state back, tensors on the CPU.

    Raises:
        OSError: if the file cannot be opened.
        DamagedError: if it is not whole, or not a file that :func:`save_state` wrote.
        UnsafeError: if it holds more than plain data; nothing of it was run.
    """
    data, source = Path(path).read_bytes(), os.fspath(path)
    _check(data, source)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        # Not the cause: torch's text advises to load with weights_only=False.
        reason = str(error).partition("\n")[0][:100]
        raise DamagedError(f"{source} cannot be read: {reason}") from None
    if type(state) is not dict:
        raise DamagedError(f"{source} holds no mapping, got {describe(state)[:60]}")
    return state


def _copy(value: Any, path: str, above: tuple[int, ...]) -> Any:
    if type(value) in _TENSORS:
        return _tensor(value, path)
    if type(value) is int and value.bit_length() > LONGEST:
        raise TypeError(f"{path} is an integer of more than {LONGEST} bits, which is not read back")
    if type(value) in _PLAIN:
        return value
    if id(value) in above or len(above) > DEEPEST:
        raise TypeError(f"{path} contains itself, or is nested more than {DEEPEST} deep")
    above = (*above, id(value))
    if type(value) in _MAPPINGS:
        items = {_key(k, path): _copy(v, f"{path}[{k!r}]", above) for k, v in value.items()}
        return Counter(items) if type(value) is Counter else items
    if type(value) in (list, tuple):
        return type(value)(_copy(v, f"{path}[{i}]", above) for i, v in enumerate(value))
    raise TypeError(
        f"{path} is {describe(value)[:100]}, which is not read back from a file; save tensors, "
        f"numbers, strings, lists, tuples and mappings{_instead(value)}"
    )


def _key(key: Any, path: str) -> Any:
    if type(key) in _PLAIN:
        return _copy(key, f"{path}: the key {key!r:.40}", ())
    if type(key) is tuple:
        return tuple(_key(k, path) for k in key)
    raise TypeError(
        f"{path} has the key {describe(key)[:60]}; keys are strings, numbers, None, or tuples"
    )


def _tensor(value: Tensor, path: str) -> Tensor:
    tensor = value.detach()
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise TypeError(
            f"{path} is {describe(tensor)}, layout {tensor.layout}, on {tensor.device}; save "
            f"dense tensors"
        )
    # Of a view, torch would save everything that it is a view of.
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def _instead(value: object) -> str:
    module = type(value).__module__.partition(".")[0]
    if module == "numpy":
        return " (torch.from_numpy(...) of an array, .item() of a number)"
    if callable(value):
        return " (a function is made anew from numbers that are saved)"
    return " (a tensor's shape as tuple(shape), a set as a list)"


def _check(data: bytes, source: str) -> None:
    """Raise an error unless the bytes are a whole file that names nothing but tensors."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if any(e.compress_type != zipfile.ZIP_STORED for e in entries):
                raise DamagedError(f"{source}: it is compressed, which save_state never does")
            # torch finds entries whatever their case, so that there must be one to find.
            inner = [e for e in entries if e.filename.lower().endswith("/data.pkl")]
            if len(inner) != 1:
                raise DamagedError(f"{source}: its entries are not those that save_state writes")
            # torch does not compare checksums.
            if (damaged := archive.testzip()) is not None:
                raise DamagedError(f"{source}: the checksum of {damaged!r:.60} is wrong")
            named = _named(archive.read(inner[0]))
    except DamagedError:
        raise
    except Exception as error:
        raise DamagedError(
            f"{source} is no whole file of save_state ({len(data)} bytes): {str(error)[:100]}"
        ) from error
    if unknown := ", ".join(sorted(name for name in named if not _is_known(name))):
        raise UnsafeError(
            f"{source} names {unknown[:200]}: it holds more than tensors and numbers, and might "
            f"run code. It was not loaded"
        )


def _named(pickled: bytes) -> set[str]:
    """Return what a pickle names, "module name", and its instructions that name indirectly."""
    named = set()
    for instruction, argument, _ in pickletools.genops(pickled):
        if instruction.name == "GLOBAL":
            named.add(str(argument))
        elif instruction.name in ("INST", "OBJ", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            named.add(f"{instruction.name} {argument}")
    return named


def _is_known(name: str) -> bool:
    module, _, short = name.partition(" ")
    if module == "torch":
        is_dtype = isinstance(getattr(torch, short, None), torch.dtype)
        return is_dtype or (short.endswith("Storage") and short.isalnum())
    return short in _NAMES.get(module, ())
