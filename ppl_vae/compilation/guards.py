"""Guards on the objects that programs hold: what a graph assumes of them, checked at each run."""

from __future__ import annotations

import argparse
import sys
import types
import weakref
from array import array
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

CONTAINERS = (dict, list, tuple, set, frozenset, deque)
ARRAYS = (np.ndarray, array, bytearray)
WRAPPERS = (staticmethod, classmethod)
_CONSTANTS = (
    *(bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, np.generic),
)
_NAMESPACES = (argparse.Namespace, types.SimpleNamespace, ChainMap, UserDict, UserList)
"""Standard-library classes whose instances hold what users put there."""
_MODULE_DICTS = ("_modules", "_parameters", "_buffers")
_CLASS_INTERNALS = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"),
    *("__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__"),
    *("__firstlineno__", "__static_attributes__"),
}
_LIBRARIES = sys.stdlib_module_names | {
    *("lightning_fabric", "numpy", "pyro", "torch", "zuko"),
    __name__.partition(".")[0],
}
"""Packages whose functions and classes are assumed not to change."""
_CACHES: tuple[tuple[type, frozenset[str]], ...] = ((AutoGuide, frozenset({"plates"})),)
"""Attributes that library objects set anew at each run."""


class GlobalState:
    """Process-wide settings that decide what torch computes."""

    def contents(self) -> dict[str, object]:
        """Return the settings by name."""
        cpu, cuda = map(torch.is_autocast_enabled, ("cpu", "cuda"))
        return {
            "default dtype": torch.get_default_dtype(),
            "autocast on the CPU": cpu and torch.get_autocast_dtype("cpu"),
            "autocast on CUDA": cuda and torch.get_autocast_dtype("cuda"),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "forward hooks": nn_module._global_forward_hooks,
            "forward pre-hooks": nn_module._global_forward_pre_hooks,
            "backward hooks": nn_module._global_backward_hooks,
            "backward pre-hooks": nn_module._global_backward_pre_hooks,
        }


_GLOBAL_STATE = GlobalState()


class ObjectIds:
    """Unique numbers for objects, which are not kept alive; unlike ``id``, none is used twice."""

    def __init__(self) -> None:
        self._ids: dict[int, tuple[Callable[[], object], int]] = {}
        self._next = 0

    def of(self, thing: object) -> int:
        """Return the number of an object."""
        ref, number = self._ids.get(id(thing), (None, 0))
        if ref is None or ref() is not thing:
            self._next, number = self._next + 1, self._next
            self._ids[id(thing)] = _reference(thing), number
        return number


class HashedOnce(tuple):
    """A tuple that keeps its hash: hundreds of items are hashed at each lookup otherwise."""

    def __hash__(self) -> int:
        if not hasattr(self, "_hash"):
            self._hash = super().__hash__()
        return self._hash


class Guards:
    """What some objects hold, recursively, at one time.

    Recorded are tensors (identity, shape, strides, dtype, device, hooks, ``requires_grad``; not
    values); modules, functions and other objects (identity and contents); arrays and constants by
    value; all of these also in lists, dictionaries, tuples and sets, in arrays of objects, in
    closures and in class attributes. Functions and classes of the standard library, torch, Pyro and
    this package are not searched, nor are standard-library objects other than namespaces. What an
    object omits or replaces in ``__getstate__`` is taken for a cache and ignored.

    No module is kept alive. ``ids`` are shared by all guards that are compared; ``ignored`` are
    names of attributes, by the name of their root.
    """

    def __init__(
        self,
        roots: Mapping[str, object],
        ids: ObjectIds,
        ignored: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._ids = ids
        self._holders: list[_Holder] = []
        self._tensors: list[tuple[Tensor, tuple]] = []
        self._arrays: list[tuple[Callable[[], Any], bytes]] = []
        self._alive: list[object] = []
        self._collected: list[object] = []
        self._key: list[object] = []
        self._paths: list[str] = []
        self._structure: list[int] = []
        self._queue: deque[tuple[str, object, frozenset[str]]] = deque()
        self._queued: set[int] = set()
        for name, root in {**roots, "torch": _GLOBAL_STATE}.items():
            if root is not None:
                self._enqueue(name, root, frozenset((ignored or {}).get(name, ())))
        while self._queue:
            self._search(*self._queue.popleft())
        self.key = HashedOnce(self._key)
        """Equal for two guards if nothing differs."""
        self.structure = frozenset(self._structure)
        """The numbers of the modules and tensors."""

    def hold(self) -> bool:
        """Return whether nothing has changed: a fast check, by identity."""
        if self._collected:
            return False
        for holder in self._holders:
            if not holder.is_unchanged():
                return False
        for tensor, properties in self._tensors:
            if _properties(tensor) != properties:
                return False
        return all(to_bytes(ref()) == values for ref, values in self._arrays)

    def first_difference(self, later: Guards) -> str | None:
        """Return the name of what differs first in later guards; None if nothing does."""
        if self.key == later.key:
            return None
        pairs = zip(self._key, later._key, strict=False)
        end = min(len(self._key), len(later._key))
        index = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), end)
        return (later if index < len(later._paths) else self)._paths[index]

    def modules(self) -> list[nn.Module]:
        """Return the modules that were found."""
        return [thing for thing in self.holders() if isinstance(thing, nn.Module)]

    def holders(self) -> list[object]:
        """Return the objects that were searched."""
        return [holder.ref() for holder in self._holders]

    def tensors(self) -> list[Tensor]:
        """Return the tensors that were found."""
        return [tensor for tensor, _ in self._tensors]

    def _enqueue(self, path: str, value: object, ignored: frozenset[str] = frozenset()) -> None:
        if id(value) not in self._queued:
            self._queued.add(id(value))
            self._queue.append((path, value, ignored))

    def _search(self, path: str, thing: object, ignored: frozenset[str]) -> None:
        holder = _Holder(thing, ignored | _caches(thing))
        self._holders.append(holder)
        self._watch(thing)
        for name, value in holder.entries():
            self._record(f"{path}.{name}", value)

    def _record(self, path: str, value: object) -> None:
        self._paths.append(path)
        if isinstance(value, _CONSTANTS):
            self._alive.append(value)  # so that its id is not used again
            self._key.append((type(value), repr(value)))  # 1, 1.0 and True are equal
            return
        if isinstance(value, CONTAINERS):
            self._key.append((type(value).__name__, len(value)))
            if _package(type(value).__module__) not in _LIBRARIES and hasattr(value, "__dict__"):
                self._enqueue(path, value)  # a subclass with attributes
            return
        number = self._ids.of(value)
        if isinstance(value, Tensor):
            properties = _properties(value)
            self._tensors.append((value, properties))
            self._structure.append(number)
            self._key.append((number, properties))
            return
        self._watch(value)
        if isinstance(value, ARRAYS):
            self._arrays.append((_reference(value), to_bytes(value)))
            self._key.append((number, to_bytes(value)))
            if isinstance(value, np.ndarray) and value.dtype.hasobject:
                self._enqueue(path, value)
            return
        self._key.append(number)
        if isinstance(value, nn.Module):
            self._structure.append(number)
        if _is_searched(value):
            self._enqueue(path, value)

    def _watch(self, thing: object) -> None:
        """Notice when an object is collected: another one may then get its id."""
        try:
            self._alive.append(weakref.ref(thing, self._collected.append))
        except TypeError:
            self._alive.append(thing)


class _Holder:
    """An object that holds others.

    Its contents are read anew at each check and not stored: they may lead back to the object
    itself, which would then never be collected.
    """

    def __init__(self, thing: object, ignored: frozenset[str]) -> None:
        self.ref = _reference(thing)
        self._class = id(type(thing))
        self._ignored = ignored
        # Most are modules, or have a plain dictionary: checks of these must be fast.
        plain = getattr(thing, "__dict__", None) is contents(thing) and not ignored
        self._read = _attributes if plain else self._contents
        held = self._read(thing)
        self._names = [*held]
        self._containers = [n for n, value in held.items() if isinstance(value, CONTAINERS)]
        self._values = [*map(id, held.values())]
        self._nested = [*map(id, self._items(held))]

    def is_unchanged(self) -> bool:
        thing = self.ref()
        held = self._read(thing)
        return (
            [*held] == self._names
            and [*map(id, held.values())] == self._values
            and self._has_same_items(held)
            and id(type(thing)) == self._class
        )

    def _has_same_items(self, held: Mapping[str, object]) -> bool:
        if not any(map(held.__getitem__, self._containers)):
            return not self._nested
        return [*map(id, self._items(held))] == self._nested

    def entries(self) -> Iterator[tuple[str, object]]:
        """Yield the contents by name, each container before its items."""
        thing = self.ref()
        for name, value in [("its class", type(thing)), *self._contents(thing).items()]:
            if not (isinstance(thing, nn.Module) and name in _MODULE_DICTS):
                yield name, value
            if isinstance(value, CONTAINERS):
                prefix = f"{name}." if name not in _MODULE_DICTS else ""
                yield from ((f"{prefix}{n}", v) for n, v in _entries(value, (id(value),)))

    def _contents(self, thing: object) -> Mapping[str, object]:
        held = contents(thing)
        if self._ignored:
            held = {name: value for name, value in held.items() if name not in self._ignored}
        return held

    def _items(self, held: Mapping[str, object]) -> list[object]:
        found: list[object] = []
        for name in self._containers:
            container: Any = held[name]
            if container:
                add_items(container, found, (id(container),))
        return found


def contents(thing: Any) -> Mapping[str, object]:
    """Return what an object holds, by name."""
    if isinstance(thing, nn.Module):
        return thing.__dict__
    if isinstance(thing, GlobalState):
        return thing.contents()
    if isinstance(thing, types.FunctionType):
        cells = map(cell_contents, thing.__closure__ or ())
        return {
            "its code": thing.__code__,
            "its defaults": thing.__defaults__,
            "its keyword defaults": thing.__kwdefaults__,
            **dict(zip(thing.__code__.co_freevars, cells, strict=True)),
            **thing.__dict__,
        }
    if isinstance(thing, types.MethodType):
        return {"__self__": thing.__self__, "__func__": thing.__func__}
    if isinstance(thing, partial):
        return {"func": thing.func, "args": thing.args, "keywords": thing.keywords}
    if isinstance(thing, WRAPPERS):
        return {"__func__": thing.__func__}
    if isinstance(thing, property):
        return {"fget": thing.fget}
    if isinstance(thing, np.ndarray):
        return {str(i): value for i, value in enumerate(thing.flat)}
    if isinstance(thing, type):
        own = dict(vars(thing))  # to which other threads may write
        held = {name: value for name, value in own.items() if name not in _CLASS_INTERNALS}
        return {**held, "its bases": thing.__bases__}
    slots = chain.from_iterable(_slots(kind) for kind in type(thing).__mro__)
    in_slots = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
    attributes = getattr(thing, "__dict__", {})
    return {**in_slots, **attributes} if in_slots else attributes


def cell_contents(cell: types.CellType) -> object:
    """Return what a cell of a closure holds; None if it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def to_bytes(values: Any) -> bytes:
    """Return the values of an array."""
    return bytes(values) if isinstance(values, bytearray) else values.tobytes()


def add_items(container: Any, found: list[object], parents: tuple[int, ...]) -> None:
    """Append the items of a container, and those of containers in it, to a list."""
    if isinstance(container, dict):
        found += container
        container = container.values()
    found += container
    for value in container:
        # By its type: isinstance would ask most objects for their class six times.
        if issubclass(type(value), CONTAINERS) and id(value) not in parents:
            add_items(value, found, (*parents, id(value)))


def _entries(container: Any, parents: tuple[int, ...]) -> Iterator[tuple[str, object]]:
    """Yield the items of a container, and those of containers in it, by name."""
    is_dict = isinstance(container, dict)
    if is_dict:
        yield from (("its keys", key) for key in container)
    for i, (name, value) in enumerate(container.items() if is_dict else enumerate(container)):
        yield str(name), value
        if isinstance(value, CONTAINERS) and id(value) not in parents:
            inner = _entries(value, (*parents, id(value)))
            yield from ((f"{name if is_dict else i}.{n}", v) for n, v in inner)


def _attributes(thing: Any) -> Mapping[str, object]:
    return thing.__dict__


def strides(tensor: Tensor) -> tuple[int, ...]:
    """Return the strides of a tensor that is not contiguous; those of size 1 do not matter."""
    if tensor.layout != torch.strided or tensor.is_contiguous():
        return ()
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    return tuple(stride for stride, size in pairs if size != 1)


def _properties(tensor: Tensor) -> tuple:
    hooks = tensor._backward_hooks
    return (
        tensor.requires_grad,
        tensor.dtype,
        tensor.shape,
        strides(tensor),
        tensor.device,
        tuple(hooks.values()) if hooks else None,
    )


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if not name.startswith("__"))


def _is_searched(value: object) -> bool:
    if isinstance(value, (nn.Module, types.MethodType, partial, *WRAPPERS, property, *_NAMESPACES)):
        return True
    if isinstance(value, (type, types.FunctionType)):
        return _package(value.__module__) not in _LIBRARIES
    return (
        _package(type(value).__module__) not in sys.stdlib_module_names
        and not isinstance(value, (Tensor, weakref.ref, types.ModuleType))
        and (hasattr(value, "__dict__") or any(map(_slots, type(value).__mro__)))
    )


def _package(module: object) -> str:
    return str(module).partition(".")[0]


def _caches(thing: Any) -> frozenset[str]:
    """Return the names of an object's caches: what it omits when it is pickled."""
    if isinstance(thing, (nn.Module, type)):
        return frozenset().union(*(names for kind, names in _CACHES if isinstance(thing, kind)))
    method = getattr(type(thing), "__getstate__", None)
    if method is None or method is getattr(object, "__getstate__", None):
        return frozenset()
    try:
        state = thing.__getstate__()
    except Exception:  # from a user's class
        return frozenset()
    if not isinstance(state, dict):
        return frozenset()
    held = contents(thing)
    return frozenset(n for n, v in held.items() if n not in state or state[n] is not v)


def _reference(thing: Any) -> Callable[[], Any]:
    """Return a function that returns an object; it keeps alive only what has no weak reference."""
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: thing
