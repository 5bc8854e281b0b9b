"""Fingerprints of the settings that resuming depends on, equal across processes."""

from __future__ import annotations

import enum
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, IterableDataset, Sampler

from ppl_vae.training.checksums import checksum, short_hash
from ppl_vae.training.code_fingerprint import (
    CONSTANTS,
    MAX_DEPTH,
    code_hash,
    is_data,
    is_library,
    is_user_object,
    variables,
)

UNREAD = "values that were not read"
"""Stands for a checksum that was not asked for."""
CODE = "(code)"
"""Ends the key of a function's code."""
CLASS_CODE = "(code of the class)"
"""Ends the key of the code of a class's methods."""

_MAX_LISTED = 16  # items of a container that are listed one by one
_MAX_SAMPLED = 10_000  # items of a longer one that are hashed, evenly spaced
_MAX_ARRAY = 2**28  # bytes of an array that are hashed; of a larger one, evenly spaced rows
_MAX_CHARACTERS = 100
_MAX_KEYS = 50_000
# Modules of process-local objects: locks, loggers, open files, threads.
_OPAQUE = {
    *("_io", "_thread", "_weakref", "io", "logging", "queue", "threading", "weakref"),
    *("asyncio", "concurrent", "multiprocessing", "socket", "subprocess", "tqdm"),
}
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
_IGNORED_OF_DATA = ("name", "device", "conversions")
# fit seeds a loader's generators itself.
_LOADER_ATTRIBUTES = ("batch_size", "collate_fn", "dataset", "drop_last", "worker_init_fn")


def fingerprint(named: Mapping[str, object], *, contents: bool = True) -> dict[str, str]:
    """Return strings that describe objects and what they are made of, by path.

    Of a module: class, parameters, buffers, attributes and hooks. Of a function: name, a hash of
    its code, defaults, and what it reads of closures and globals; of ``args.rate`` that one
    attribute. Of tensors that are in no state: shape, dtype and, if ``contents``, checksum.
    """
    found = _Fingerprint(contents)
    for name, value in named.items():
        found.add(name, value)
    return found.entries


class _Fingerprint:
    def __init__(self, contents: bool) -> None:
        self.entries: dict[str, str] = {}
        self._contents = contents
        self._first: dict[int, tuple[str, object]] = {}
        self._parents: set[int] = set()
        self._checksums: dict[int, tuple[Tensor, str]] = {}

    def add(self, path: str, value: Any, depth: int = 0) -> None:
        opaque = type(value).__module__.partition(".")[0] in _OPAQUE
        if opaque or depth > MAX_DEPTH or len(self.entries) > _MAX_KEYS:
            self.entries[path] = _name(type(value))
        elif isinstance(value, CONSTANTS):
            self.entries[path] = _shortened(repr(value))
        elif isinstance(value, (torch.device, types.ModuleType)):
            pass  # a place, not a setting
        elif isinstance(value, enum.Enum):
            self.entries[path] = f"{_name(type(value))}.{value.name}"
        elif isinstance(value, (np.generic, PurePath)):
            self.entries[path] = _shortened(str(value))
        elif isinstance(value, (Tensor, np.ndarray)):
            self._tensor(path, value)
        elif isinstance(value, torch.Generator):
            self.entries[f"{path}.seed"] = str(value.initial_seed())
        elif isinstance(value, (type, types.BuiltinFunctionType, np.ufunc)):
            self._callable(path, value, depth)
        elif id(value) in self._parents:
            self.entries[path] = f"{_name(type(value))}, a circular reference"
        else:
            self._parents.add(id(value))
            self._object(path, value, depth + 1)
            self._parents.remove(id(value))

    def _object(self, path: str, value: Any, depth: int) -> None:
        if isinstance(value, Mapping):
            self._items(path, value.items(), type(value), depth)
        elif isinstance(value, (Set, list, tuple, deque)):
            ordered = sorted(value, key=repr) if isinstance(value, Set) else value
            self._items(path, enumerate(ordered), type(value), depth)
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
            self.entries[path] = _name(type(value))
        elif isinstance(value, DataLoader):
            self._loader(path, value, depth)
        elif self._is_first(path, value):
            self._attributes(path, value, depth)

    def _is_first(self, path: str, value: object) -> bool:
        """Return whether an object is new; record where else it is if not."""
        first, _ = self._first.setdefault(id(value), (path, value))  # alive, so the id is unique
        if first != path:
            self.entries[path] = f"the same as {first}"
        return first == path

    def _tensor(self, path: str, value: Tensor | np.ndarray) -> None:
        kind = _kind(value)
        if isinstance(value, np.ndarray):
            value = _as_tensor(value)
        if value.numel() == 1 and value.layout == torch.strided and not value.is_meta:
            self.entries[path] = f"{kind} {value.item()}"
        else:
            found = self._checksum(value) if self._contents else UNREAD
            self.entries[path] = f"{kind} with checksum {found}"

    def _checksum(self, value: Tensor) -> str:
        if id(value) not in self._checksums:  # alive, so the id is unique
            self._checksums[id(value)] = value, checksum(value)
        return self._checksums[id(value)][1]

    def _items(self, path: str, pairs: Iterable[tuple[Any, Any]], kind: type, depth: int) -> None:
        items = list(pairs)
        self.entries[path] = f"{kind.__name__} of {len(items)}"
        if len(items) <= _MAX_LISTED:
            for key, item in items:
                self.add(f"{path}[{_name(key) if callable(key) else repr(key)}]", item, depth)
            return
        found = UNREAD
        if self._contents:
            hashed: object = items
            if not all(isinstance(item, CONSTANTS) for _, item in items):
                inner = _Fingerprint(self._contents)
                for key, item in items[:: -(-len(items) // _MAX_SAMPLED)]:
                    inner.add(repr(key), item, depth)
                hashed = inner.entries
            found = short_hash(repr(hashed).encode())
        self.entries[path] += f" with checksum {found}"

    def _module(self, path: str, module: nn.Module, depth: int) -> None:
        if not self._is_first(path, module):
            return
        children = ", ".join(module._modules)
        self.entries[path] = _name(type(module)) + (f" of {children}" if children else "")
        self._class(path, type(module))
        if not module.training:
            self.entries[f"{path}.training"] = "False"
        for name, parameter in module._parameters.items():
            if parameter is not None and self._is_first(f"{path}.{name}", parameter):
                fixed = "" if parameter.requires_grad else ", fixed"
                self.entries[f"{path}.{name}"] = f"parameter {_kind(parameter)}{fixed}"
        for name, buffer in module._buffers.items():
            if buffer is not None and self._is_first(f"{path}.{name}", buffer):
                if name in module._non_persistent_buffers_set:
                    self._tensor(f"{path}.{name}", buffer)
                else:
                    self.entries[f"{path}.{name}"] = f"buffer {_kind(buffer)}"
        for name, value in vars(module).items():
            if name not in _MODULE_ATTRIBUTES and _is_setting(name, value, module):
                self.add(f"{path}.{name}", value, depth)
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        for i, hook in enumerate(hooks):
            self.add(f"{path}.hooks[{i}]", hook, depth)
        for name, child in module._modules.items():
            if child is not None:
                self.add(f"{path}.{name}", child)  # modules may be nested to any depth

    def _loader(self, path: str, loader: DataLoader, depth: int) -> None:
        self.entries[path] = _name(type(loader))
        for name in _LOADER_ATTRIBUTES:
            self.add(f"{path}.{name}", getattr(loader, name), depth)
        if isinstance(loader.dataset, IterableDataset):  # which workers may divide among them
            self.entries[f"{path}.num_workers"] = str(loader.num_workers)
        for name in ("sampler", "batch_sampler"):
            sampler = getattr(loader, name)
            self.entries[f"{path}.{name}"] = _name(type(sampler))
            for inner, value in vars(sampler).items() if isinstance(sampler, Sampler) else ():
                if inner not in ("data_source", "generator", "sampler"):
                    self.add(f"{path}.{name}.{inner}", value, depth)

    def _attributes(self, path: str, value: Any, depth: int) -> None:
        self.entries[path] = _name(type(value))
        self._class(path, type(value))
        if is_dataclass(value):
            ignored = _IGNORED_OF_DATA if type(value).__module__.startswith("ppl_vae.data") else ()
            names = [f.name for f in fields(value) if f.init and not f.name.startswith("_")]
            settings = {name: getattr(value, name) for name in names if name not in ignored}
        else:
            slots = [s for c in type(value).__mro__ for s in _slots(c)]
            settings = {s: getattr(value, s) for s in slots if hasattr(value, s)}
            # Schedules keep others in private lists.
            every = isinstance(value, LRScheduler)
            attributes = getattr(value, "__dict__", {})
            settings |= {k: v for k, v in attributes.items() if every or _is_setting(k, v, value)}
            if not hasattr(value, "__dict__") and not slots:
                settings = {"state": _reduced(value)}
        for name, item in settings.items():
            self.add(f"{path}.{name}", item, depth)

    def _class(self, path: str, cls: type) -> None:
        """Add a user's class: its methods' code, its constants, and what the methods read."""
        own = [c for c in cls.__mro__ if not is_library(c)]
        methods = [f for c in own for f in vars(c).values() if isinstance(f, types.FunctionType)]
        if methods:
            self.entries[f"{path} {CLASS_CODE}"] = code_hash(methods)
        for c in reversed(own):
            for name, value in vars(c).items():
                if name[:2] != "__" and is_data(value):
                    self.add(f"{path}.{name}", value)
        seen: set[types.CodeType] = set()
        for method in methods:
            for name, value in variables(method, seen):
                self._add_once(f"{path} (outside: {name})", value)

    def _callable(self, path: str, value: Any, depth: int) -> None:
        self.entries[path] = _name(value)
        if isinstance(owner := getattr(value, "__self__", None), (list, dict, tuple)):
            self.add(f"{path}.self", owner, depth)
        if not isinstance(value, types.FunctionType):
            return
        if not is_library(value):
            self.entries[f"{path} {CODE}"] = code_hash(value)
        for name, item in variables(value, set()):
            self._add_once(f"{path}.{name}", item)
        defaults = enumerate(value.__defaults__ or ())
        for key, item in [*defaults, *(value.__kwdefaults__ or {}).items()]:
            self.add(f"{path}.default[{key!r}]", item, depth)
        if value.__dict__.get("__wrapped__") is not None:
            self.add(f"{path}.wrapped", value.__dict__["__wrapped__"], depth)

    def _add_once(self, path: str, value: Any) -> None:
        if path not in self.entries:
            self.add(path, value, 1)


def _is_setting(name: str, value: object, owner: object) -> bool:
    """Return whether an attribute is a setting: most private containers of libraries are caches.

    A class names attributes that are none in ``not_settings``.
    """
    if name in getattr(type(owner), "not_settings", ()):
        return False
    if not name.startswith("_") or value is None:
        return not name.startswith("_")
    if isinstance(value, (*CONSTANTS, np.generic, Tensor, np.ndarray)):
        return True
    if isinstance(value, (types.FunctionType, types.MethodType, partial, type)):
        return True
    return not is_library(type(owner)) and (is_data(value) or is_user_object(value))


def _reduced(value: object) -> object:
    """Return how an object of a compiled class is pickled, such as an ``itemgetter``."""
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
    """Return an array's values; of a huge one, which may be memory-mapped, some rows."""
    step = max(1, -(-array.nbytes // _MAX_ARRAY))
    rows = array if step == 1 else array[::step]
    try:
        return torch.from_numpy(np.array(rows))
    except TypeError:  # strings, dates, another byte order
        return torch.frombuffer(bytearray(repr(rows.tolist()).encode()), dtype=torch.uint8)


def _kind(value: Tensor | np.ndarray) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _shortened(text: str) -> str:
    if len(text) <= _MAX_CHARACTERS:
        return text
    return f"{text[:_MAX_CHARACTERS]}... ({short_hash(text.encode())})"
