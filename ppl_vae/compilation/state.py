"""What programs hold, which a graph of them takes for granted: looked at before each run."""

from __future__ import annotations

import argparse
import sys
import types
import weakref
from array import array
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

_ATOMS = (
    *(bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, np.generic),
)
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_ARRAYS = (np.ndarray, array, bytearray)
_HOLDERS = (argparse.Namespace, types.SimpleNamespace, ChainMap, UserDict, UserList)
"""Classes of the standard library whose objects hold what users put there."""
_WRAPPERS = (staticmethod, classmethod)
_OF_MODULES = ("_modules", "_parameters", "_buffers")
_OF_CLASSES = frozenset(
    (
        *("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"),
        *("__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__"),
        *("__firstlineno__", "__static_attributes__"),
    )
)
_LIBRARIES = sys.stdlib_module_names | {
    *("lightning_fabric", "numpy", "pyro", "torch", "zuko"),
    __name__.partition(".")[0],
}
"""Whose functions and classes are taken to stay as they are."""


_CACHES: tuple[tuple[type, frozenset[str]], ...] = ((AutoGuide, frozenset({"plates"})),)
"""Attributes that objects of a library set anew at each run."""


class _Everywhere:
    """What decides what torch computes, wherever it is called."""

    def held(self) -> dict[str, object]:
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


_EVERYWHERE = _Everywhere()


class Tokens:
    """Numbers for objects, none of which is kept alive; an object has the same one for life."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[Callable[[], object], int]] = {}
        self._next = 0

    def of(self, thing: object) -> int:
        """Return the number of an object."""
        ref, token = self._of.get(id(thing), (None, 0))
        if ref is None or ref() is not thing:
            self._next, token = self._next + 1, self._next
            self._of[id(thing)] = _reference(thing), token
        return token


class Snapshot:
    """What some objects hold, and what those hold, at one time.

    That is: tensors (which, and their shape, dtype, device, hooks and whether they require a
    gradient, not their values); modules, functions and other objects (which, and what is in them);
    arrays and plain things by value; all of that also in lists, dictionaries, tuples and sets, in
    arrays of objects, in what a function closes over and in the attributes of classes. Functions
    and classes of the standard library, torch, Pyro and this package are not looked into, nor are
    objects of the standard library, but for those of ``_HOLDERS``. What an object leaves out of, or
    replaces in, its ``__getstate__`` is not looked at: it is a cache.

    No module is kept alive.

    Args:
        roots: by name.
        tokens: numbers of objects, the same for all snapshots that are compared.
        but: names of attributes that change nothing, by the name of their root.
    """

    def __init__(
        self,
        roots: Mapping[str, object],
        tokens: Tokens,
        but: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._tokens = tokens
        self._owners: list[_Owner] = []
        self._tensors: list[tuple[Tensor, tuple]] = []
        self._arrays: list[tuple[Callable[[], Any], bytes]] = []
        self._kept: list[object] = []
        self._gone: list[object] = []
        self._key: list[object] = []
        self._paths: list[str] = []
        self._structure: list[int] = []
        self._queue: deque[tuple[str, object, frozenset[str]]] = deque()
        self._queued: set[int] = set()
        for name, root in {**roots, "torch": _EVERYWHERE}.items():
            if root is None or id(root) in self._queued:
                continue
            self._queued.add(id(root))
            self._queue.append((name, root, frozenset((but or {}).get(name, ()))))
        while self._queue:
            self._take_up(*self._queue.popleft())
        self.key = tuple(self._key)
        """Equal for two snapshots if all is the same."""
        self.structure = frozenset(self._structure)
        """The numbers of the modules and tensors."""

    def holds(self) -> bool:
        """Tell whether all is certainly as it was: a quick look, by identity."""
        if self._gone:
            return False
        for owner in self._owners:
            if not owner.is_as_it_was():
                return False
        for tensor, facts in self._tensors:
            if _facts(tensor) != facts:
                return False
        return all(_bytes(ref()) == values for ref, values in self._arrays)

    def first_difference(self, later: Snapshot) -> str | None:
        """Return the name of what differs first in a later snapshot; None if nothing does."""
        if self.key == later.key:
            return None
        pairs = zip(self._key, later._key, strict=False)
        index = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
        if index is None:
            index = min(len(self._key), len(later._key))
        longer = later if index < len(later._paths) else self
        return longer._paths[index]

    def modules(self) -> list[nn.Module]:
        """Return the modules that were found."""
        found = (owner.ref() for owner in self._owners)
        return [module for module in found if isinstance(module, nn.Module)]

    def owners(self) -> list[object]:
        """Return the objects that were looked into."""
        return [owner.ref() for owner in self._owners]

    def tensors(self) -> list[Tensor]:
        """Return the tensors that were found."""
        return [tensor for tensor, _ in self._tensors]

    def _take_up(self, path: str, thing: object, but: frozenset[str]) -> None:
        owner = _Owner(thing, but | _left_out(thing))
        self._owners.append(owner)
        self._watch(thing)
        for name, value in owner.named():
            self._note(f"{path}.{name}", value)

    def _note(self, path: str, value: object) -> None:
        self._paths.append(path)
        if isinstance(value, _ATOMS):
            self._kept.append(value)  # its id belongs to no other as long as it is there
            self._key.append((type(value), repr(value)))  # 1, 1.0 and True are equal
            return
        if isinstance(value, _CONTAINERS):
            self._key.append((type(value).__name__, len(value)))
            if _library(type(value).__module__) not in _LIBRARIES and hasattr(value, "__dict__"):
                self._look_into(path, value)  # at attributes, beside what is in it
            return
        token = self._tokens.of(value)
        if isinstance(value, Tensor):
            facts = _facts(value)
            self._tensors.append((value, facts))
            self._structure.append(token)
            self._key.append((token, facts))
            return
        self._watch(value)
        if isinstance(value, _ARRAYS):
            self._arrays.append((_reference(value), _bytes(value)))
            self._key.append((token, _bytes(value)))
            if isinstance(value, np.ndarray) and value.dtype.hasobject:
                self._look_into(path, value)
            return
        self._key.append(token)
        if isinstance(value, nn.Module):
            self._structure.append(token)
        if _is_looked_into(value):
            self._look_into(path, value)

    def _look_into(self, path: str, value: object) -> None:
        if id(value) not in self._queued:
            self._queued.add(id(value))
            self._queue.append((path, value, frozenset()))

    def _watch(self, thing: object) -> None:
        """See to it that no other object is taken for this one, which may have had its place."""
        try:
            self._kept.append(weakref.ref(thing, self._gone.append))
        except TypeError:
            self._kept.append(thing)


class _Owner:
    """An object that holds others.

    What it holds is looked up anew each time, and not kept: by way of its attributes that may lead
    anywhere, and so to the object itself, which would never be collected.
    """

    def __init__(self, thing: object, but: frozenset[str]) -> None:
        self.ref = _reference(thing)
        self._class = id(type(thing))
        self._but = but
        # Most are modules, or have a plain dictionary: it is looked at a lot.
        plain = getattr(thing, "__dict__", None) is _held(thing) and not but
        self._read = _attributes if plain else self._held
        held = self._read(thing)
        self._names = [*held]
        self._containers = [n for n, value in held.items() if isinstance(value, _CONTAINERS)]
        self._values = [*map(id, held.values())]
        self._nested = [*map(id, self._inside(held))]

    def is_as_it_was(self) -> bool:
        thing = self.ref()
        held = self._read(thing)
        return (
            [*held] == self._names
            and [*map(id, held.values())] == self._values
            and self._inside_is_as_it_was(held)
            and id(type(thing)) == self._class
        )

    def _inside_is_as_it_was(self, held: Mapping[str, object]) -> bool:
        if not any(map(held.__getitem__, self._containers)):
            return not self._nested
        return [*map(id, self._inside(held))] == self._nested

    def named(self) -> Iterator[tuple[str, object]]:
        """Yield what is held, by name, containers first and then what is in them."""
        thing = self.ref()
        for name, value in [("its class", type(thing)), *self._held(thing).items()]:
            if not (isinstance(thing, nn.Module) and name in _OF_MODULES):
                yield name, value
            if isinstance(value, _CONTAINERS):
                prefix = f"{name}." if name not in _OF_MODULES else ""
                yield from ((f"{prefix}{n}", v) for n, v in _entries(value, (id(value),)))

    def _held(self, thing: object) -> Mapping[str, object]:
        held = _held(thing)
        if self._but:
            held = {name: value for name, value in held.items() if name not in self._but}
        return held

    def _inside(self, held: Mapping[str, object]) -> list[object]:
        found: list[object] = []
        for name in self._containers:
            container: Any = held[name]
            if container:
                _spread(container, found, (id(container),))
        return found


def _bytes(values: Any) -> bytes:
    return bytes(values) if isinstance(values, bytearray) else values.tobytes()


def _ids(held: Mapping[str, object]) -> list[int]:
    return [*map(id, held), *map(id, held.values())]


def _attributes(thing: Any) -> Mapping[str, object]:
    return thing.__dict__


def _spread(container: Any, found: list[object], within: tuple[int, ...]) -> None:
    """Add what is in a container, and in those in it."""
    if isinstance(container, dict):
        found += container
        container = container.values()
    found += container
    for value in container:
        # Of its type: an object that is none of them would be asked for its class six times.
        if issubclass(type(value), _CONTAINERS) and id(value) not in within:
            _spread(value, found, (*within, id(value)))


def _entries(container: Any, within: tuple[int, ...]) -> Iterator[tuple[str, object]]:
    """Yield what is in a container, and in those in it, by name."""
    is_dict = isinstance(container, dict)
    if is_dict:
        yield from (("its keys", key) for key in container)
    for i, (name, value) in enumerate(container.items() if is_dict else enumerate(container)):
        yield str(name), value
        if isinstance(value, _CONTAINERS) and id(value) not in within:
            inner = _entries(value, (*within, id(value)))
            yield from ((f"{name if is_dict else i}.{n}", v) for n, v in inner)


def _facts(tensor: Tensor) -> tuple:
    hooks = tensor._backward_hooks
    return (
        tensor.requires_grad,
        tensor.dtype,
        tensor.shape,
        tensor.device,
        tuple(hooks.values()) if hooks else None,
    )


def _held(thing: Any) -> Mapping[str, object]:
    """Return what an object holds, by name."""
    if isinstance(thing, nn.Module):
        return thing.__dict__
    if isinstance(thing, _Everywhere):
        return thing.held()
    if isinstance(thing, types.FunctionType):
        cells = map(_content, thing.__closure__ or ())
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
    if isinstance(thing, _WRAPPERS):
        return {"__func__": thing.__func__}
    if isinstance(thing, property):
        return {"fget": thing.fget}
    if isinstance(thing, np.ndarray):
        return {str(i): value for i, value in enumerate(thing.flat)}
    if isinstance(thing, type):
        held = {name: value for name, value in vars(thing).items() if name not in _OF_CLASSES}
        return {**held, "its bases": thing.__bases__}
    slots = chain.from_iterable(_slots(kind) for kind in type(thing).__mro__)
    there = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
    attributes = getattr(thing, "__dict__", {})
    return {**there, **attributes} if there else attributes


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if not name.startswith("__"))


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # nothing yet
        return None


def _is_looked_into(value: object) -> bool:
    if isinstance(value, (nn.Module, types.MethodType, partial, *_WRAPPERS, property)):
        return True
    if isinstance(value, (type, types.FunctionType)):
        return _library(value.__module__) not in _LIBRARIES
    if isinstance(value, _HOLDERS):
        return True
    return (
        _library(type(value).__module__) not in sys.stdlib_module_names
        and not isinstance(value, (Tensor, weakref.ref, types.ModuleType))
        and (hasattr(value, "__dict__") or any(map(_slots, type(value).__mro__)))
    )


def _library(module: object) -> str:
    return str(module).partition(".")[0]


def _left_out(thing: Any) -> frozenset[str]:
    """Return the names of an object's caches: what it leaves out when it is pickled."""
    if isinstance(thing, (nn.Module, type)):
        return frozenset().union(*(names for kind, names in _CACHES if isinstance(thing, kind)))
    method = getattr(type(thing), "__getstate__", None)
    if method is None or method is getattr(object, "__getstate__", None):
        return frozenset()
    try:
        state = thing.__getstate__()
    except Exception:  # of someone's own class
        return frozenset()
    if not isinstance(state, dict):
        return frozenset()
    held = _held(thing)
    return frozenset(n for n, v in held.items() if n not in state or state[n] is not v)


def _reference(thing: Any) -> Callable[[], Any]:
    """Return a function that returns an object, and keeps it alive only where that must be."""
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: thing


class Kept:
    """What some objects hold, to be put back: values of modules' tensors, and all attributes.

    Tensors elsewhere, such as a data set that a function closes over, are not copied.

    Args:
        snapshot: of the objects.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._attributes = [(thing, dict(_held(thing))) for thing in snapshot.owners()]
        containers: dict[int, tuple[Any, Any]] = {}
        for _, held in self._attributes:
            for value in held.values():
                _copy(value, containers)
        self._containers = [*containers.values()]
        own = {
            id(value)
            for module in snapshot.modules()
            for value in _inside(_held(module))
            if isinstance(value, Tensor)
        }
        self._tensors = [
            (t, _version(t), t.detach().clone() if id(t) in own else None)
            for t in snapshot.tensors()
        ]

    def put_back(self) -> str | None:
        """Let all be as it was; return what could not be put back, in words."""
        for thing, held in self._attributes:
            _put_back(thing, held)
        for container, contents in self._containers:
            if not _same(container, contents):
                _refill(container, contents)
        lost = None
        for tensor, version, values in self._tensors:
            if values is None and _version(tensor) != version:
                lost = f"a tensor of shape {tuple(tensor.shape)} outside of all modules"
            elif values is not None and not _equal(tensor, values):
                with torch.no_grad():
                    tensor.copy_(values)
        return lost

    def changed_tensors(self) -> list[Tensor]:
        """Return copies of the modules' tensors that were written to since, in a fixed order."""
        return [
            tensor.detach().clone()
            for tensor, _, values in self._tensors
            if values is not None and not _equal(tensor, values)
        ]


@contextmanager
def left_alone(roots: Mapping[str, object]) -> Iterator[Kept]:
    """Leave objects, and all in them, as they were."""
    kept = Kept(Snapshot(roots, Tokens()))
    try:
        yield kept
    finally:
        kept.put_back()


def _inside(held: Mapping[str, object]) -> list[object]:
    found: list[object] = []
    _spread(dict(held), found, ())
    return found


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _equal(tensor: Tensor, values: Tensor) -> bool:
    return tensor.shape == values.shape and torch.equal(tensor, values)


def _copy(value: Any, into: dict[int, tuple[Any, Any]]) -> None:
    """Note the contents of containers that can change, and of those in them."""
    if isinstance(value, _ARRAYS):
        into[id(value)] = value, copy(value)
    if not isinstance(value, _CONTAINERS) or id(value) in into:
        return
    inside = value.values() if isinstance(value, dict) else value
    into[id(value)] = value, dict(value) if isinstance(value, dict) else list(value)
    for inner in inside:
        _copy(inner, into)


def _same(container: Any, before: Any) -> bool:
    if isinstance(container, _ARRAYS):
        return _bytes(container) == _bytes(before)
    if isinstance(container, dict):
        return _ids(container) == _ids(before)
    return [*map(id, container)] == [*map(id, before)]


def _refill(container: Any, before: Any) -> None:
    if isinstance(container, np.ndarray):
        container[...] = before
    elif isinstance(container, (array, bytearray)):
        container[:] = before
    elif isinstance(container, (list, deque)):
        container.clear()
        container.extend(before)
    elif isinstance(container, (dict, set)):
        container.clear()
        container.update(before)


def _put_back(thing: Any, held: Mapping[str, object]) -> None:
    """Give an object the attributes that it had."""
    if isinstance(thing, types.FunctionType):
        for cell, name in zip(thing.__closure__ or (), thing.__code__.co_freevars, strict=True):
            if _content(cell) is not held[name]:
                cell.cell_contents = held[name]
        for name in [*thing.__dict__]:
            if name not in held:
                delattr(thing, name)
            elif thing.__dict__[name] is not held[name]:
                setattr(thing, name, held[name])
        return
    if isinstance(
        thing, (_Everywhere, np.ndarray, types.MethodType, partial, property, *_WRAPPERS)
    ):
        return  # what is in arrays is put back as the contents of containers are
    now = _held(thing)
    if _ids(now) == _ids(held):
        return
    is_class = isinstance(thing, type)
    if not is_class and getattr(thing, "__dict__", None) is now:
        now.clear()
        now.update(held)
        return
    for name in [name for name in now if name not in held]:
        delattr(thing, name)
    for name, value in held.items():
        if name != "its bases" and now.get(name, Ellipsis) is not value:
            (setattr if is_class else object.__setattr__)(thing, name, value)
