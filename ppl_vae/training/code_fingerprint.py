"""What a user's functions do, and what they read of closures and globals."""

from __future__ import annotations

import dis
import enum
import sys
import types
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.training.checksums import short_hash

CONSTANTS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.layout)
MAX_DEPTH = 12
_LIBRARIES = frozenset(("lightning_fabric", "numpy", "ppl_vae", "pyro", "torch", "torchvision")) | (
    sys.stdlib_module_names - {"__main__"}
)


def is_library(value: Any) -> bool:
    """Return whether a class or function is a library's, not a user's."""
    return _is_library_name(getattr(value, "__module__", None) or "builtins")


def is_user_object(value: object) -> bool:
    """Return whether a value is of a user's class, or a namespace that a user fills."""
    return isinstance(value, types.SimpleNamespace) or not (
        isinstance(value, (type, types.FunctionType, types.ModuleType)) or is_library(type(value))
    )


def is_data(value: object, depth: int = MAX_DEPTH) -> bool:
    """Return whether a value is numbers, strings and tensors, alone or in containers."""
    if isinstance(value, (*CONSTANTS, np.generic, enum.Enum, Tensor, np.ndarray)):
        return True
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, (list, tuple, deque, set, frozenset)) or not depth:
        return False
    return all(is_data(item, depth - 1) for item in value)


def code_hash(function: types.FunctionType | list[types.FunctionType]) -> str:
    """Return a hash of what functions do, and of the user's functions that they call."""
    if isinstance(function, list):
        found = [_calls(f, set()) for f in function]
    else:
        found = _calls(function, set())
    return short_hash(repr(found).encode())


def variables(
    function: types.FunctionType, seen: set[types.CodeType], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield what a function, and the user's functions that it calls, read from outside.

    Of an object whose attributes alone are read, such as ``args.rate``, these are what is yielded.
    Code in ``seen`` was searched before.
    """
    code = function.__code__
    if code in seen:
        return
    seen.add(code)
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    for name, is_global, attributes in _loads(code):
        if not is_global and name in cells and name != "__class__":
            try:
                path, value = _resolved(name, cells[name].cell_contents, attributes)
            except ValueError:  # an empty cell
                continue
            if not isinstance(value, type):
                yield f"{prefix}{path}", value
        elif is_global and name in function.__globals__ and not is_library(function):
            path, value = _resolved(name, function.__globals__[name], attributes)
            if isinstance(value, types.FunctionType):
                if _is_own(value, function):
                    yield from variables(value, seen, f"{prefix}{path}.")
            elif is_data(value) or is_user_object(value):
                yield f"{prefix}{path}", value


def _is_own(called: types.FunctionType, caller: types.FunctionType) -> bool:
    """Return whether a called function is the same user's, not an installed package's."""
    packages = {(f.__module__ or "").partition(".")[0] for f in (called, caller)}
    installed = "site-packages" in called.__code__.co_filename
    return not is_library(called) and (len(packages) == 1 or not installed)


def _resolved(path: str, value: Any, attributes: tuple[str, ...]) -> tuple[str, Any]:
    """Follow reads of attributes as far as they are those of an object."""
    for name in attributes:
        library = isinstance(value, types.ModuleType) and _is_library_name(value.__name__)
        holds = isinstance(value, (types.ModuleType, type, types.SimpleNamespace, Namespace))
        is_followed = not library and (holds or is_user_object(value))
        if not is_followed or name not in getattr(value, "__dict__", {}):
            break
        path, value = f"{path}.{name}", vars(value)[name]
    return path, value


@lru_cache(maxsize=10_000)
def _loads(code: types.CodeType) -> tuple[tuple[str, bool, tuple[str, ...]], ...]:
    """Return the globals and closures that code reads, each with the attributes read of it."""
    found: dict[tuple[str, bool, tuple[str, ...]], None] = {}
    instructions = list(dis.get_instructions(code))
    for i, instruction in enumerate(instructions):
        if instruction.opname not in ("LOAD_GLOBAL", "LOAD_DEREF"):
            continue
        attributes = []
        for following in instructions[i + 1 :]:
            if following.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                break
            attributes.append(following.argval)
        found[instruction.argval, instruction.opname == "LOAD_GLOBAL", tuple(attributes)] = None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= dict.fromkeys(_loads(constant))
    return tuple(found)


def _calls(function: types.FunctionType, callers: set[types.CodeType]) -> list[Any]:
    """Return a function's code, with that of the user's functions that it calls."""
    code = function.__code__
    if code in callers:
        return [code.co_name]
    names = dict.fromkeys(name for name, is_global, _ in _loads(code) if is_global)
    called = [function.__globals__.get(name) for name in names]
    own = [f for f in called if isinstance(f, types.FunctionType) and not is_library(f)]
    return [_code(code), *(_calls(f, {*callers, code}) for f in own)]


def _code(code: types.CodeType) -> list[Any]:
    constants = [_code(c) if isinstance(c, types.CodeType) else _repr(c) for c in code.co_consts]
    return [code.co_code.hex(), constants, code.co_names, code.co_freevars]


def _repr(constant: object) -> str:
    if isinstance(constant, frozenset):  # whose order changes from process to process
        return repr(sorted(map(repr, constant)))
    return repr(constant)


def _is_library_name(module: str) -> bool:
    return module.partition(".")[0] in _LIBRARIES
