"""Weights as safetensors: names, shapes and numbers, and nothing that could be run."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence

import safetensors.torch
import torch
from torch import Tensor, nn

from ppl_vae.errors import describe, path_of, quoted, reason
from ppl_vae.files import read_bytes
from ppl_vae.io.atomic import write_file
from ppl_vae.io.errors import DamagedError, MismatchError
from ppl_vae.io.format import FORMAT, HEADER_BYTES, check_format
from ppl_vae.version import __version__

KEY = "ppl_vae"
"""The header's entry with the format and the aliases of shared tensors."""

_FLOATING = ("float64", "float32", "float16", "bfloat16", "complex64")
_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
DTYPES = tuple(getattr(torch, name) for name in (*_FLOATING, *_INTEGERS, "bool"))
"""The dtypes that a file can hold."""

_FIX = "build the module with the options of the one that was saved"


def save_weights(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a module's ``state_dict`` as safetensors, replacing the file atomically.

    A tensor with several names, such as those of a posterior inside a ``VampPrior``, is written
    once, and its other names go into the header. Every bit is kept; memory layouts are not.

    Raises:
        TypeError: if an entry cannot be written: extra state, or a sparse tensor.
        OSError: if the file cannot be written; the old one stays.
    """
    write_tensors(state_tensors(_module("save_weights", module)), path)


def load_weights(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a module's ``state_dict`` from a file, onto the module's device.

    Raises:
        OSError: if the file cannot be opened.
        DamagedError: if it is not a complete safetensors file.
        NewerFormatError: if a newer version wrote it.
        MismatchError: if names, shapes or dtypes differ; the module is then unchanged.
    """
    assign(_module("load_weights", module), read_tensors(path), os.fspath(path))


def write_tensors(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write tensors by name, as :func:`save_weights` does."""
    if not isinstance(tensors, Mapping):
        raise TypeError(f"write_tensors: tensors must be a mapping, got {describe(tensors)}")
    write_file(path, packed(tensors))


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return a file's tensors by name, on the CPU; aliases of one tensor are one again."""
    path = path_of("", "path", path)
    return unpacked(read_bytes(path, error=DamagedError), str(path))


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as the bytes of a safetensors file, the same bytes for the same tensors."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple, str] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        check_storable(repr(name), tensor)
        if (same := identity(tensor)) in first:
            aliases[name] = first[same]
        else:
            first[same] = name
            stored[name] = own_memory(tensor, storages)
    header = {"format": FORMAT, "version": __version__, "aliases": aliases}
    # One entry, as the library writes several in an undefined order.
    return safetensors.torch.save(stored, metadata={KEY: json.dumps(header)})


def own_memory(tensor: Tensor, storages: set[int]) -> Tensor:
    """Return a tensor on the CPU, contiguous and alone in its storage, as the format requires.

    It is copied only if necessary. ``storages`` has the addresses of those in use.
    """
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    storage = tensor.untyped_storage()
    whole = storage.nbytes() == tensor.numel() * tensor.element_size()
    if not whole or storage.data_ptr() in storages:
        tensor = tensor.clone()
    storages.add(tensor.untyped_storage().data_ptr())
    return tensor


def unpacked(data: bytes, source: str) -> dict[str, Tensor]:
    """Return the tensors in the bytes of a safetensors file; ``source`` is for messages."""
    tensors, metadata = tensors_and_metadata(data, source, "safetensors file")
    try:
        header = json.loads(metadata[KEY]) if KEY in metadata else {"format": FORMAT}
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{source}: the header cannot be read: {reason(error)}") from None
    if not isinstance(header, dict):
        raise DamagedError(f"{source}: the header must hold a mapping under {KEY!r}")
    check_format(source, header.get("format"), header.get("version"))
    aliases = header.get("aliases", {})
    if not isinstance(aliases, dict):
        raise DamagedError(f"{source}: the aliases in the header must be a mapping")
    stored = dict(tensors)
    for alias, name in aliases.items():
        if not isinstance(name, str) or name not in stored or alias in stored:
            what = f"{quoted(alias, 60)} of {quoted(name, 60)}"
            raise DamagedError(f"{source}: the header has the invalid alias {what}")
        tensors[alias] = stored[name]
    return tensors


def tensors_and_metadata(
    data: bytes, source: str, kind: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what a safetensors file contains; raise DamagedError, which names the ``kind``."""
    length = header_length(data)
    problem = f"{source} is not a complete {kind} ({len(data)} bytes)"
    if length > HEADER_BYTES:
        raise DamagedError(f"{problem}: its header claims {length} of at most {HEADER_BYTES} bytes")
    try:
        tensors = safetensors.torch.load(data)
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except Exception as error:  # the library's errors have no common class
        raise DamagedError(f"{problem}: {reason(error, 100)}") from None
    return tensors, metadata


def header_length(data: bytes) -> int:
    """Return the claimed length of a safetensors file's header."""
    return int.from_bytes(data[:8], "little")


def state_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's ``state_dict``; raise TypeError if an entry cannot be saved."""
    state = dict(module.state_dict())
    for name, value in state.items():
        check_storable(repr(name), value)
    return state


@torch.no_grad()
def assign(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load tensors into a module, all or none; raise MismatchError unless all fit."""
    check_compatible(module, tensors, source)
    module.load_state_dict(dict(tensors), strict=True)


def check_compatible(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise MismatchError unless :func:`assign` can load the tensors into the module."""
    later = {
        f"{path}._extra_state".removeprefix(".")
        for path, part in module.named_modules()
        if getattr(part, "extra_state_may_be_missing", False)
    }
    own = {n: t for n, t in state_tensors(module).items() if n in tensors or n not in later}
    _check_names(own, tensors, source)
    pairs = {name: (tensors[name], own[name]) for name in own}
    shapes = [
        f"{quoted(name)} is {tuple(there.shape)} in the file and {tuple(here.shape)} in the module"
        for name, (there, here) in pairs.items()
        if here.shape != there.shape
    ]
    if shapes:
        raise MismatchError(f"{source}: {_first_three(shapes)}; {_FIX}")
    different = [name for name, (there, here) in pairs.items() if here.dtype != there.dtype]
    if different:
        names = f"{different[0]!r}{_and_more(len(different) - 1)}"
        there, here = (tensor.dtype for tensor in pairs[different[0]])
        fix = f"convert the module first, module.to({there})" if there.is_floating_point else _FIX
        raise MismatchError(
            f"{source}: {names} is {there} in the file and {here} in the module; {fix}"
        )
    _check_shared(own, tensors, source)


def identity(tensor: Tensor) -> tuple:
    """Return a key that is equal for two names of the same numbers in memory."""
    layout = (tuple(tensor.shape), tensor.stride(), tensor.is_conj(), tensor.is_neg())
    return (tensor.device, tensor.data_ptr(), tensor.dtype, *layout)


def check_storable(place: str, value: object) -> None:
    """Raise TypeError unless safetensors can hold the value at a place."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{place} is {describe(value)[:80]}, not a tensor; keep it as a buffer or an argument"
        )
    if nn.parameter.is_lazy(value):
        raise TypeError(f"{place} is uninitialised; run the module once before saving it")
    if value.layout != torch.strided or value.dtype not in DTYPES or value.is_meta:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(
            f"{place} is {describe(value)}, layout {value.layout}, on {value.device}, which "
            f"safetensors cannot hold; convert it to a dense tensor of one of {names}"
        )


def _module(owner: str, module: object) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise TypeError(f"{owner}: module must be a torch.nn.Module, got {describe(module)}")
    return module


def _check_names(own: Collection[str], there: Collection[str], source: str) -> None:
    missing = [quoted(name) for name in own if name not in there]
    unexpected = [quoted(name) for name in there if name not in own]
    if not (missing or unexpected):
        return
    problems = [f"missing keys {_first_three(missing)}"] if missing else []
    problems += [f"unexpected keys {_first_three(unexpected)}"] if unexpected else []
    fix = _FIX
    if prefix := _prefix(own, there):
        fix = f"the names in the file start with {prefix!r}: load it into the whole module"
    elif prefix := _prefix(there, own):
        fix = f"the module's names start with {prefix!r}: load the file into that part of it"
    raise MismatchError(f"{source}: {', '.join(problems)}; {fix}")


def _check_shared(own: Mapping[str, Tensor], there: Mapping[str, Tensor], source: str) -> None:
    """Raise an error if two names of one tensor have different values in the file."""
    first: dict[tuple, str] = {}
    for name, tensor in own.items():
        other = first.setdefault(identity(tensor), name)
        one, two = there[other], there[name]
        if one is not two and _bytes(one) != _bytes(two):
            raise MismatchError(
                f"{source}: {other!r} and {name!r} differ in the file and are one tensor in the "
                f"module; build the module without sharing"
            )


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _prefix(inner: Collection[str], outer: Collection[str]) -> str:
    """Return the prefix that turns the inner names into outer ones; "" if there is none."""
    shortest = min(inner, key=len, default="")
    found = (n.removesuffix(shortest) for n in outer if shortest and n.endswith(f".{shortest}"))
    return next((p for p in found if {p + name for name in inner} <= set(outer)), "")


def _first_three(items: Sequence[str]) -> str:
    return f"{', '.join(items[:3])}{_and_more(len(items) - 3)}"


def _and_more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""
