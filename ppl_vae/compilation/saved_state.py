"""Saving and restoring what objects hold, around a trial run of programs."""

from __future__ import annotations

import types
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.compilation.guards import (
    ARRAYS,
    CONTAINERS,
    WRAPPERS,
    GlobalState,
    Guards,
    ObjectIds,
    add_items,
    cell_contents,
    contents,
    to_bytes,
)
from ppl_vae.process_state import restored


class SavedState:
    """Attributes of objects, and values of modules' tensors, to be restored.

    Tensors elsewhere, such as a data set in a closure, are not copied.
    """

    def __init__(self, roots: Mapping[str, object]) -> None:
        guards = Guards(roots, ObjectIds())
        self._attributes = [(thing, dict(contents(thing))) for thing in guards.holders()]
        containers: dict[int, tuple[Any, Any]] = {}
        for _, held in self._attributes:
            for value in held.values():
                _save_containers(value, containers)
        self._containers = [*containers.values()]
        own: list[object] = []
        for module in guards.modules():
            add_items(dict(contents(module)), own, ())
        of_modules = {id(value) for value in own if isinstance(value, Tensor)}
        self._tensors = [
            (t, _version(t), t.detach().clone() if id(t) in of_modules else None)
            for t in guards.tensors()
        ]

    def restore(self) -> str | None:
        """Restore everything; return a description of what could not be, if anything."""
        for thing, held in self._attributes:
            _restore_attributes(thing, held)
        for container, items in self._containers:
            if not _has_items(container, items):
                _set_items(container, items)
        lost = None
        for tensor, version, values in self._tensors:
            if values is None and _version(tensor) != version:
                lost = f"a tensor of shape {tuple(tensor.shape)} outside of all modules"
            elif values is not None and not _equal(tensor, values):
                with torch.no_grad():
                    tensor.copy_(values)
        return lost

    def changed_tensors(self) -> list[Tensor]:
        """Return copies of the modules' tensors whose values have changed, in a fixed order."""
        return [
            tensor.detach().clone()
            for tensor, _, values in self._tensors
            if values is not None and not _equal(tensor, values)
        ]


@contextmanager
def preserved(roots: Mapping[str, object]) -> Iterator[SavedState]:
    """Restore objects, everything they hold, and random state at the end of the block."""
    saved = SavedState(roots)
    with restored():
        try:
            yield saved
        finally:
            saved.restore()


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _equal(tensor: Tensor, values: Tensor) -> bool:
    return tensor.shape == values.shape and torch.equal(tensor, values)


def _ids(held: Mapping[str, object]) -> list[int]:
    return [*map(id, held), *map(id, held.values())]


def _save_containers(value: Any, saved: dict[int, tuple[Any, Any]]) -> None:
    """Copy mutable containers and arrays, and those nested in them, one level each."""
    if isinstance(value, ARRAYS):
        saved[id(value)] = value, copy(value)
    if not isinstance(value, CONTAINERS) or id(value) in saved:
        return
    items = dict(value) if isinstance(value, dict) else list(value)  # others may write to it
    saved[id(value)] = value, items
    for item in items.values() if isinstance(items, dict) else items:
        _save_containers(item, saved)


def _has_items(container: Any, items: Any) -> bool:
    if isinstance(container, ARRAYS):
        return to_bytes(container) == to_bytes(items)
    if isinstance(container, dict):
        return _ids(container) == _ids(items)
    return [*map(id, container)] == [*map(id, items)]


def _set_items(container: Any, items: Any) -> None:
    if isinstance(container, np.ndarray):
        container[...] = items
    elif isinstance(container, (array, bytearray)):
        container[:] = items
    elif isinstance(container, (list, deque)):
        container.clear()
        container.extend(items)
    elif isinstance(container, (dict, set)):
        container.clear()
        container.update(items)


def _restore_attributes(thing: Any, held: Mapping[str, object]) -> None:
    if isinstance(thing, types.FunctionType):
        for cell, name in zip(thing.__closure__ or (), thing.__code__.co_freevars, strict=True):
            if cell_contents(cell) is not held[name]:
                cell.cell_contents = held[name]
        for name in [*thing.__dict__]:
            if name not in held:
                delattr(thing, name)
            elif thing.__dict__[name] is not held[name]:
                setattr(thing, name, held[name])
        return
    if isinstance(thing, (GlobalState, np.ndarray, types.MethodType, partial, property, *WRAPPERS)):
        return  # arrays are restored as containers are
    now = contents(thing)
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
