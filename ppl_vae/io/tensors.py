"""Weights as safetensors: numbers, names and shapes, and nothing that could be run."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping

import safetensors.torch
import torch
from torch import Tensor, nn

from ppl_vae.errors import describe, path_of, quoted, reason
from ppl_vae.files import read_bytes
from ppl_vae.io.atomic import write_bytes
from ppl_vae.io.errors import DamagedError, MismatchError
from ppl_vae.io.versions import FORMAT, check_format
from ppl_vae.version import __version__

KEY = "ppl_vae"
"""Under which the file's header holds the format and the further names of shared tensors."""

HEADER = 8 * 2**20
"""Bytes of a file's header, at most: those of 100,000 tensors."""

_FLOATING = ("float64", "float32", "float16", "bfloat16", "complex64")
_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
DTYPES = tuple(getattr(torch, name) for name in (*_FLOATING, *_INTEGERS, "bool"))
"""What a file can hold."""


def save_weights(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a module's ``state_dict`` as safetensors, in the place of what is there, at once.

    A tensor that is reached by several names, such as those of a posterior that a ``VampPrior``
    holds too, is written once, and its other names in the header. Every bit is kept; the order of
    strides is not.

    Raises:
        TypeError: if something cannot be written: extra state that is no tensor, a sparse tensor.
        OSError: if the file cannot be written; what was there stays.
    """
    write_tensors(tensors_of(_module("save_weights", module)), path)


def load_weights(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Read a module's ``state_dict`` from a file, onto the device where the module is.

    Raises:
        OSError: if the file cannot be opened.
        DamagedError: if it is no whole safetensors file.
        NewerFormatError: if a newer version wrote it.
        MismatchError: if a name, a shape or a dtype is not the module's; it is then as it was.
    """
    assign(_module("load_weights", module), read_tensors(path), os.fspath(path))


def write_tensors(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write tensors by name as safetensors, in the place of what is there, at once.

    Raises:
        TypeError: if something cannot be written, such as a sparse tensor.
        OSError: if the file cannot be written; what was there stays.
    """
    if not isinstance(tensors, Mapping):
        raise TypeError(f"write_tensors: tensors must be a mapping, got {describe(tensors)}")
    write_bytes(path, packed(tensors))


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the tensors in a file by name, on the CPU; what was one tensor is one again.

    Raises:
        OSError: if the file cannot be opened.
        DamagedError: if it is no whole safetensors file.
        NewerFormatError: if a newer version wrote it.
    """
    path = path_of("", "path", path)
    return unpacked(read_bytes(path, error=DamagedError), str(path))


def _module(owner: str, module: object) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise TypeError(f"{owner}: module must be a torch.nn.Module, got {describe(module)}")
    return module


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as the bytes of a safetensors file, the same for the same tensors.

    Raises:
        TypeError: if something cannot be written.
    """
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple, str] = {}
    storages: set[tuple] = set()
    for name, tensor in tensors.items():
        _refuse(name, tensor)
        same = identity(tensor)
        if same in first:
            aliases[name] = first[same]
            continue
        first[same] = name
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        storage = (tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        # The format has no overlapping tensors: other views of the same numbers are copied.
        stored[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    header = {"format": FORMAT, "version": __version__, "aliases": aliases}
    # One entry: the library writes several in any order.
    return safetensors.torch.save(stored, metadata={KEY: json.dumps(header)})


def unpacked(data: bytes, source: str) -> dict[str, Tensor]:
    """Return the tensors in the bytes of a safetensors file.

    Args:
        data: the bytes.
        source: the file, for messages.

    Raises:
        DamagedError: if they are not a whole safetensors file.
        NewerFormatError: if a newer version wrote it.
    """
    tensors, metadata = tensors_and_header(data, source, "no whole safetensors file")
    try:
        header = json.loads(metadata[KEY]) if KEY in metadata else {"format": FORMAT}
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{source}: the header cannot be read: {reason(error)}") from None
    if not isinstance(header, dict):
        raise DamagedError(f"{source}: the header holds no mapping under {KEY!r}")
    check_format(source, header.get("format"), header.get("version"))
    aliases = header.get("aliases", {})
    if not isinstance(aliases, dict):
        raise DamagedError(f"{source}: the header holds no mapping of further names")
    stored = dict(tensors)
    for alias, name in aliases.items():
        if not isinstance(name, str) or name not in stored or alias in stored:
            raise DamagedError(
                f"{source}: the header gives {quoted(alias, 60)} as a name of {quoted(name, 60)}"
            )
        tensors[alias] = stored[name]
    return tensors


def tensors_and_header(
    data: bytes, source: str, what: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors in the bytes of a safetensors file, and the words in its header.

    Raises:
        DamagedError: if they are not a whole file; the message says that ``source`` is ``what``.
    """
    length = header_length(data)
    if length > HEADER:
        raise DamagedError(
            f"{source} is {what} ({len(data)} bytes): its header claims {length} bytes, and has "
            f"{HEADER} at most"
        )
    try:
        tensors = safetensors.torch.load(data)
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except Exception as error:  # the library's own errors have no common class
        raise DamagedError(
            f"{source} is {what} ({len(data)} bytes): {reason(error, 100)}"
        ) from None
    return tensors, metadata


def header_length(data: bytes) -> int:
    """Return how many bytes the header of a safetensors file has, or claims to have."""
    return int.from_bytes(data[:8], "little")


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's ``state_dict``, of which every entry is a tensor.

    Raises:
        TypeError: if one is not.
    """
    state = dict(module.state_dict())
    for name, value in state.items():
        _refuse(name, value)
    return state


@torch.no_grad()
def assign(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a module, all or none.

    Args:
        module: whose ``state_dict`` has the same names, shapes and dtypes.
        tensors: by name.
        source: the file, for messages.

    Raises:
        MismatchError: if they are not the same; the message names the first.
    """
    check_suits(module, tensors, source)
    module.load_state_dict(dict(tensors), strict=True)


def check_suits(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise MismatchError unless :func:`assign` can copy the tensors into the module."""
    own = tensors_of(module)
    _check_names(own, tensors, source)
    different = [name for name in own if own[name].shape != tensors[name].shape]
    if different:
        shapes = (
            f"{quoted(name)} is {tuple(tensors[name].shape)} in the file and "
            f"{tuple(own[name].shape)} in the module"
            for name in different[:3]
        )
        raise MismatchError(f"{source}: {_told(shapes, len(different))}; {_FIX}")
    different = [name for name in own if own[name].dtype != tensors[name].dtype]
    if different:
        name = different[0]
        there, here = tensors[name].dtype, own[name].dtype
        fix = f"convert the module first, module.to({there})" if there.is_floating_point else _FIX
        raise MismatchError(
            f"{source}: {name!r}{_more(len(different) - 1)} is {there} in the file and {here} in "
            f"the module; {fix}"
        )
    _check_shared(own, tensors, source)


_FIX = "build the module as the one that was saved, with the same options"


def _check_names(own: Collection[str], there: Collection[str], source: str) -> None:
    missing = [name for name in own if name not in there]
    unexpected = [name for name in there if name not in own]
    if not (missing or unexpected):
        return
    said = []
    if missing:
        names = _told(map(quoted, missing[:3]), len(missing))
        said.append(f"it lacks {names} of the module")
    if unexpected:
        names = _told(map(quoted, unexpected[:3]), len(unexpected))
        said.append(f"it holds {names}, which the module has not")
    fix = _FIX
    if prefix := _prefix(own, there):
        fix = f"the names in the file start with {prefix!r}: load it into the whole module"
    elif prefix := _prefix(there, own):
        fix = f"the module's names start with {prefix!r}: load the file into that part of it"
    raise MismatchError(f"{source}: {', and '.join(said)}; {fix}")


def _check_shared(own: Mapping[str, Tensor], there: Mapping[str, Tensor], source: str) -> None:
    """Raise an error if two names of one tensor have different values in the file."""
    first: dict[tuple, str] = {}
    for name, tensor in own.items():
        other = first.setdefault(identity(tensor), name)
        one, two = there[other], there[name]
        if one is not two and _bytes(one) != _bytes(two):
            raise MismatchError(
                f"{source}: {other!r} and {name!r} differ in the file, and are one tensor in the "
                f"module; build the module without sharing, as the one that was saved"
            )


def _refuse(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name!r} is {describe(value)[:80]}, and a file of weights holds tensors only; keep "
            f"it as a buffer, or as an argument of the constructor"
        )
    if nn.parameter.is_lazy(value):
        raise TypeError(f"{name!r} has no shape yet; run the module once before it is saved")
    if value.layout != torch.strided or value.dtype not in DTYPES or value.is_meta:
        raise TypeError(
            f"{name!r} is {describe(value)}, layout {value.layout}, on {value.device}, which "
            f"safetensors cannot hold; convert it, to a dense tensor of one of "
            f"{', '.join(str(d).removeprefix('torch.') for d in DTYPES)}"
        )


def identity(tensor: Tensor) -> tuple:
    """Return what is equal for two names of the same numbers in memory."""
    layout = (tuple(tensor.shape), tensor.stride(), tensor.is_conj(), tensor.is_neg())
    return (tensor.device, tensor.data_ptr(), tensor.dtype, *layout)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _prefix(inner: Collection[str], outer: Collection[str]) -> str:
    """Return what stands before the names of one collection in the other; "" if nothing does."""
    shortest = min(inner, key=len, default="")
    found = (n.removesuffix(shortest) for n in outer if shortest and n.endswith(f".{shortest}"))
    return next((p for p in found if {p + name for name in inner} <= set(outer)), "")


def _told(items: Iterable[str], count: int) -> str:
    listed = list(items)
    return f"{', '.join(listed)}{_more(count - len(listed))}"


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""
