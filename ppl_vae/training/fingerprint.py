"""Objects in words that another process finds again: what decides how they work, and no address."""

from __future__ import annotations

import dis
import enum
import sys
import types
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Mapping, Set
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Sampler

from ppl_vae.training.checksums import checksum, short

UNREAD = "values that were not read"
"""In the place of a checksum, where none was asked for."""
CODE = "(code)"
"""Ends the name of what is said of the code of a function."""
CLASS_CODE = "(code of the class)"
"""Likewise of a class's methods."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.layout)
_LIBRARIES = frozenset(("lightning_fabric", "numpy", "ppl_vae", "pyro", "torch", "torchvision")) | (
    sys.stdlib_module_names - {"__main__"}
)
_LONG = 16  # entries of a list that are told one by one
_DEEP = 12
_WORDS = 100
_MOST = 10_000  # entries of a list that are looked at, of a longer one in even distances
_LARGE = 2**28
_ALL = 50_000
# What a process makes for itself: locks, loggers, open files, threads.
_OPAQUE: tuple[str, ...] = (
    "_io",
    "_thread",
    "_weakref",
    "io",
    "logging",
    "queue",
    "threading",
    "weakref",
)
_OPAQUE += ("asyncio", "concurrent", "multiprocessing", "socket", "subprocess", "tqdm")
_OF_MODULES = frozenset(vars(nn.Module()))
_OF_DATA = ("name", "device", "conversions")
"""Entries of this package's data that decide nothing."""
# What of a loader does not decide its batches: its generators are seeded by fit.
_OF_LOADERS = ("batch_size", "collate_fn", "dataset", "drop_last", "worker_init_fn")


def described(named: Mapping[str, object], *, contents: bool = True) -> dict[str, str]:
    """Return words for each of some objects and of what they are made of, by path.

    Of a module: its class, parameters, buffers, plain attributes and hooks. Of a function: its
    name, a checksum of its code, and what it uses of what is outside of it (closure, defaults,
    globals); of an object that it only reads attributes of, as ``args.rate``, these alone.
    Of tensors that no state has: shape, dtype and a checksum.

    Args:
        named: what each is called.
        contents: take checksums of tensors outside modules.
    """
    description = _Description(contents)
    for name, value in named.items():
        description.add(name, value)
    return description.words


class _Description:
    def __init__(self, contents: bool) -> None:
        self.words: dict[str, str] = {}
        self._contents = contents
        self._first: dict[int, tuple[str, object]] = {}
        self._above: set[int] = set()
        self._checksums: dict[int, tuple[Tensor, str]] = {}

    def add(self, path: str, value: Any, depth: int = 0) -> None:
        opaque = type(value).__module__.partition(".")[0] in _OPAQUE
        if opaque or depth > _DEEP or len(self.words) > _ALL:
            self.words[path] = _name(type(value))
        elif isinstance(value, _PLAIN):
            self.words[path] = _cut(repr(value))
        elif isinstance(value, (torch.device, types.ModuleType)):
            pass  # where something is does not decide what it is
        elif isinstance(value, enum.Enum):
            self.words[path] = f"{_name(type(value))}.{value.name}"
        elif isinstance(value, (np.generic, PurePath)):
            self.words[path] = _cut(str(value))
        elif isinstance(value, (Tensor, np.ndarray)):
            self._tensor(path, value)
        elif isinstance(value, torch.Generator):
            self.words[f"{path}.seed"] = str(value.initial_seed())
        elif isinstance(value, (type, types.BuiltinFunctionType, np.ufunc)):
            self._callable(path, value, depth)
        elif id(value) in self._above:
            self.words[path] = f"{_name(type(value))}, which holds itself"
        else:
            self._above.add(id(value))
            self._object(path, value, depth + 1)
            self._above.remove(id(value))

    def _object(self, path: str, value: Any, depth: int) -> None:
        if isinstance(value, Mapping):
            self._items(path, list(value.items()), type(value), depth)
        elif isinstance(value, Set):
            self._items(path, list(enumerate(sorted(value, key=repr))), type(value), depth)
        elif isinstance(value, (list, tuple, deque)):
            self._items(path, list(enumerate(value)), type(value), depth)
        elif isinstance(value, nn.Module):
            self._module(path, value, depth)
        elif isinstance(value, partial):
            self.add(path, value.func, depth)
            for i, item in enumerate(value.args):
                self.add(f"{path}({i})", item, depth)
            for name, item in value.keywords.items():
                self.add(f"{path}({name}=)", item, depth)
        elif isinstance(value, types.MethodType):
            self.add(path, value.__func__, depth)
            self.add(f"{path}.self", value.__self__, depth)
        elif isinstance(value, types.FunctionType):
            self._callable(path, value, depth)
        elif isinstance(value, Optimizer):
            self.words[path] = _name(type(value))
        elif isinstance(value, DataLoader):
            self._loader(path, value, depth)
        elif self._is_first(path, value):
            self._attributes(path, value, depth)

    def _is_first(self, path: str, value: object) -> bool:
        """Tell whether an object is met for the first time: what is shared is said so."""
        first, _ = self._first.setdefault(id(value), (path, value))  # held: no other has its id
        if first != path:
            self.words[path] = f"the same as {first}"
        return first == path

    def _tensor(self, path: str, value: Tensor | np.ndarray) -> None:
        kind = _kind(value)
        if isinstance(value, np.ndarray):
            value = _as_tensor(value)
        if value.numel() == 1 and value.layout == torch.strided and not value.is_meta:
            self.words[path] = f"{kind} {value.item()}"
        else:
            found = self._checksum(value) if self._contents else UNREAD
            self.words[path] = f"{kind} with checksum {found}"

    def _checksum(self, value: Tensor) -> str:
        if id(value) not in self._checksums:  # held, so that no other has its id
            self._checksums[id(value)] = value, checksum(value)
        return self._checksums[id(value)][1]

    def _items(self, path: str, items: list[tuple[Any, Any]], kind: type, depth: int) -> None:
        self.words[path] = f"{kind.__name__} of {len(items)}"
        if len(items) <= _LONG:
            for key, item in items:
                self.add(f"{path}[{key!r}]", item, depth)
            return
        found = UNREAD
        if self._contents:
            told: object = items
            if not all(isinstance(item, _PLAIN) for _, item in items):
                inner = _Description(self._contents)
                for key, item in items[:: -(-len(items) // _MOST)]:
                    inner.add(repr(key), item, depth)
                told = inner.words
            found = short(repr(told).encode())
        self.words[path] += f" with checksum {found}"

    def _module(self, path: str, module: nn.Module, depth: int) -> None:
        if not self._is_first(path, module):
            return
        parts = ", ".join(module._modules)
        self.words[path] = _name(type(module)) + (f" of {parts}" if parts else "")
        self._class(path, type(module))
        if not module.training:
            self.words[f"{path}.training"] = "False"
        for name, parameter in module._parameters.items():
            if parameter is not None and self._is_first(f"{path}.{name}", parameter):
                fixed = "" if parameter.requires_grad else ", fixed"
                self.words[f"{path}.{name}"] = f"parameter {_kind(parameter)}{fixed}"
        for name, buffer in module._buffers.items():
            if buffer is not None and self._is_first(f"{path}.{name}", buffer):
                if name in module._non_persistent_buffers_set:
                    self._tensor(f"{path}.{name}", buffer)
                else:
                    self.words[f"{path}.{name}"] = f"buffer {_kind(buffer)}"
        for name, value in vars(module).items():
            if name not in _OF_MODULES and _decides(name, value, module):
                self.add(f"{path}.{name}", value, depth)
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        for i, hook in enumerate(hooks):
            self.add(f"{path}.hooks[{i}]", hook, depth)
        for name, child in module._modules.items():
            if child is not None:
                # However deep they lie: what they hold is looked into as deep again.
                self.add(f"{path}.{name}", child)

    def _loader(self, path: str, loader: DataLoader, depth: int) -> None:
        self.words[path] = _name(type(loader))
        for name in _OF_LOADERS:
            self.add(f"{path}.{name}", getattr(loader, name), depth)
        for name in ("sampler", "batch_sampler"):
            sampler = getattr(loader, name)
            self.words[f"{path}.{name}"] = _name(type(sampler))
            for inner, value in vars(sampler).items() if isinstance(sampler, Sampler) else ():
                if inner not in ("data_source", "generator", "sampler"):
                    self.add(f"{path}.{name}.{inner}", value, depth)

    def _attributes(self, path: str, value: Any, depth: int) -> None:
        self.words[path] = _name(type(value))
        self._class(path, type(value))
        if is_dataclass(value):
            kept = {
                field.name: getattr(value, field.name)
                for field in fields(value)
                if field.init and not field.name.startswith("_")
            }
            library = type(value).__module__.startswith("ppl_vae.data")
            kept = {k: v for k, v in kept.items() if not (library and k in _OF_DATA)}
        else:
            slots = [s for c in type(value).__mro__ for s in _slots(c)]
            kept = {s: getattr(value, s) for s in slots if hasattr(value, s)}
            # Schedules hold others as private lists.
            every = isinstance(value, LRScheduler)
            attributes = getattr(value, "__dict__", {})
            kept |= {k: v for k, v in attributes.items() if every or _decides(k, v, value)}
            if not hasattr(value, "__dict__") and not slots:
                kept = {"state": _reduced(value)}
        for name, item in kept.items():
            self.add(f"{path}.{name}", item, depth)

    def _class(self, path: str, cls: type) -> None:
        """Say what the methods of a user's own class do, and what they use besides."""
        own = [c for c in cls.__mro__ if not _is_library(c)]
        functions = [f for c in own for f in vars(c).values() if isinstance(f, types.FunctionType)]
        if functions:
            told = repr([_code_of(f, set()) for f in functions])
            self.words[f"{path} {CLASS_CODE}"] = short(told.encode())
        for c in reversed(own):
            for name, value in vars(c).items():
                if name[:2] != "__" and _is_data(value):
                    self.add(f"{path}.{name}", value)
        seen: set[types.CodeType] = set()
        for function in functions:
            self._outside(f"{path} (outside: ", ")", function, seen)

    def _outside(
        self, before: str, after: str, function: types.FunctionType, seen: set[types.CodeType]
    ) -> None:
        """Say what a user's function uses of its closure and of globals."""
        code = function.__code__
        if code in seen:
            return
        seen.add(code)
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        for name, is_global, chain in _loads(code):
            if not is_global and name in cells and name != "__class__":
                try:
                    at, value = _followed(name, cells[name].cell_contents, chain)
                except ValueError:  # not assigned yet
                    continue
                decides = not isinstance(value, type)
            elif is_global and name in function.__globals__ and not _is_library(function):
                at, value = _followed(name, function.__globals__[name], chain)
                decides = _is_data(value) or _is_users(value)
            else:
                continue
            if is_global and isinstance(value, types.FunctionType):
                if _is_near(value, function):
                    self._outside(f"{before}{at}.", after, value, seen)
            elif decides and (path := f"{before}{at}{after}") not in self.words:
                self.add(path, value, 1)

    def _callable(self, path: str, value: Any, depth: int) -> None:
        self.words[path] = _name(value)
        if isinstance(owner := getattr(value, "__self__", None), (list, dict, tuple)):
            self.add(f"{path}.self", owner, depth)
        if not isinstance(value, types.FunctionType):
            return
        if not _is_library(value):
            self.words[f"{path} {CODE}"] = short(repr(_code_of(value, set())).encode())
        self._outside(f"{path}.", "", value, set())
        defaults = enumerate(value.__defaults__ or ())
        for key, item in [*defaults, *(value.__kwdefaults__ or {}).items()]:
            self.add(f"{path}.default[{key!r}]", item, depth)
        if value.__dict__.get("__wrapped__") is not None:
            self.add(f"{path}.wrapped", value.__dict__["__wrapped__"], depth)


def _decides(name: str, value: object, owner: object) -> bool:
    """Tell whether an attribute is a setting: private containers of libraries are mostly caches."""
    if not name.startswith("_") or value is None:
        return not name.startswith("_")
    if isinstance(value, (*_PLAIN, np.generic, Tensor, np.ndarray)):
        return True
    if isinstance(value, (types.FunctionType, types.MethodType, partial, type)):
        return True
    return not _is_library(type(owner)) and (_is_data(value) or _is_users(value))


def _is_data(value: object, depth: int = _DEEP) -> bool:
    """Tell whether a value is numbers, words and tensors, alone or in containers."""
    if isinstance(value, (*_PLAIN, np.generic, enum.Enum, Tensor, np.ndarray)):
        return True
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, (list, tuple, deque, set, frozenset)) or not depth:
        return False
    return all(_is_data(item, depth - 1) for item in value)


def _is_users(value: object) -> bool:
    """Tell whether a value is an object of a user's own class, or has what a user put into it."""
    return isinstance(value, types.SimpleNamespace) or not (
        isinstance(value, (type, types.FunctionType, types.ModuleType)) or _is_library(type(value))
    )


def _is_near(function: types.FunctionType, to: types.FunctionType) -> bool:
    """Tell whether a function is a user's, too, and not of a package that is installed."""
    packages = {(f.__module__ or "").partition(".")[0] for f in (function, to)}
    installed = "site-packages" in function.__code__.co_filename
    return not _is_library(function) and (len(packages) == 1 or not installed)


def _followed(path: str, value: Any, chain: tuple[str, ...]) -> tuple[str, Any]:
    """Return what is read of a global or closure, as far as that is the attribute of an object."""
    for name in chain:
        library = isinstance(value, types.ModuleType) and _is_library_named(value.__name__)
        holds = isinstance(value, (types.ModuleType, type, types.SimpleNamespace, Namespace))
        if library or not (holds or _is_users(value)) or name not in getattr(value, "__dict__", {}):
            break
        path, value = f"{path}.{name}", vars(value)[name]
    return path, value


@lru_cache(maxsize=10_000)
def _loads(code: types.CodeType) -> tuple[tuple[str, bool, tuple[str, ...]], ...]:
    """Return the globals and closures that code uses, each with the attributes read of it."""
    found: dict[tuple[str, bool, tuple[str, ...]], None] = {}
    instructions = list(dis.get_instructions(code))
    for i, one in enumerate(instructions):
        if one.opname not in ("LOAD_GLOBAL", "LOAD_DEREF"):
            continue
        chain = []
        for further in instructions[i + 1 :]:
            if further.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                break
            chain.append(further.argval)
        found[one.argval, one.opname == "LOAD_GLOBAL", tuple(chain)] = None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= dict.fromkeys(_loads(constant))
    return tuple(found)


def _code_of(function: types.FunctionType, above: set[types.CodeType]) -> list[Any]:
    """Return what a function does, and the functions of the same user's that it calls."""
    code = function.__code__
    if code in above:
        return [code.co_name]
    above = {*above, code}
    names = dict.fromkeys(name for name, is_global, _ in _loads(code) if is_global)
    called = [function.__globals__.get(name) for name in names]
    inner = [f for f in called if isinstance(f, types.FunctionType) and not _is_library(f)]
    return [_code(code), *(_code_of(f, above) for f in inner)]


def _code(code: types.CodeType) -> list[Any]:
    constants = [_code(c) if isinstance(c, types.CodeType) else _sorted(c) for c in code.co_consts]
    return [code.co_code.hex(), constants, code.co_names, code.co_freevars]


def _sorted(constant: object) -> str:
    if isinstance(constant, frozenset):
        return repr(sorted(map(repr, constant)))
    return repr(constant)


def _is_library(value: Any) -> bool:
    return _is_library_named(getattr(value, "__module__", None) or "builtins")


def _is_library_named(module: str) -> bool:
    return module.partition(".")[0] in _LIBRARIES


def _reduced(value: object) -> object:
    """Return what a compiled class's object is made anew from, such as an ``itemgetter``."""
    try:
        return value.__reduce_ex__(2)[1:3]
    except Exception:  # an open file, say
        return None


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    slots = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(s for s in slots if not s.startswith("_"))


def _name(value: Callable) -> str:
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def _as_tensor(array: np.ndarray) -> Tensor:
    """Return an array's values, of a huge one some of the rows: it may lie on the disk."""
    some = array if array.nbytes <= _LARGE else array[:: -(-array.nbytes // _LARGE)]
    try:
        return torch.from_numpy(np.array(some))
    except TypeError:  # words, dates, another order of bytes
        return torch.frombuffer(bytearray(repr(some.tolist()).encode()), dtype=torch.uint8)


def _kind(value: Tensor | np.ndarray) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _cut(text: str) -> str:
    return text if len(text) <= _WORDS else f"{text[:_WORDS]}... ({short(text.encode())})"
