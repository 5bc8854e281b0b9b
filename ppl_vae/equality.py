"""Comparison of a live module with one that was rebuilt, without running either."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.errors import describe

_MODULE_INTERNALS = {*vars(nn.Module())}
"""Tables of parameters, buffers, children and hooks, and the mode."""
_DEPTH = 4
"""How deep the attributes of other objects are compared."""


def differences(live: nn.Module, again: nn.Module) -> Iterator[str]:
    """Describe where a live module ("here") differs from a rebuilt one ("there").

    Compared are types, children, names and shapes of parameters and buffers, which of them are
    shared, the values of constants (buffers outside the ``state_dict``), and the attributes of
    classes of torch, zuko and this package. The attributes of users' classes are not, nor are
    values, dtypes, devices and ``requires_grad`` of parameters, modes, and hooks.
    """
    return _Comparison().modules(live, again, "")


def spelled(path: str) -> str:
    """Return the path of a module in a pair without the program that it is in."""
    program, _, rest = path.partition(".")
    return rest if rest and program in ("model", "guide") else path or "the module itself"


def is_foreign(module: nn.Module) -> bool:
    """Return whether a module's class is not from torch, zuko or this package."""
    package = type(module).__module__.partition(".")[0]
    return package not in ("torch", "zuko", __name__.partition(".")[0])


class _Comparison:
    """Walks both modules together, and remembers the first path of each object."""

    def __init__(self) -> None:
        self.first: tuple[dict[int, str], dict[int, str]] = ({}, {})

    def modules(self, live: nn.Module, again: nn.Module, path: str) -> Iterator[str]:
        if live is again:
            return
        if (other := self._elsewhere(live, again, path)) is not None:
            yield from other
            return
        here, there = (_full_name(type(m)) for m in (live, again))
        if here != there:
            names = [".".join(n) if here[1] == there[1] else n[1] for n in (here, there)]
            one, two = (f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}" for name in names)
            yield f"{spelled(path)} is {one} here and {two} there"
            return
        for kind in ("parameter", "buffer"):
            yield from self._tensors(live, again, path, kind)
        if not is_foreign(live):
            yield from _attributes(live, again, path)
        yield from self._children(live, again, path)

    def _children(self, live: nn.Module, again: nn.Module, path: str) -> Iterator[str]:
        here, there = (
            {k: m for k, m in c._modules.items() if m is not None} for c in (live, again)
        )
        yield from _missing(path, "module", here, there)
        common = [name for name in here if name in there]
        in_order = isinstance(live, (nn.Sequential, nn.ModuleList))
        if in_order and common != [name for name in there if name in here]:
            yield f"{spelled(path)} has its modules in another order here than there"
        for name in common:
            yield from self.modules(here[name], there[name], _joined(path, name))

    def _tensors(self, live: nn.Module, again: nn.Module, path: str, kind: str) -> Iterator[str]:
        tables = (getattr(module, f"_{kind}s") for module in (live, again))
        here, there = ({k: t for k, t in table.items() if t is not None} for table in tables)
        yield from _missing(path, kind, here, there)
        for name in [name for name in here if name in there]:
            one, two, at = here[name], there[name], _joined(path, name)
            if one.shape != two.shape:
                shapes = f"{tuple(one.shape)} here and {tuple(two.shape)} there"
                yield f"{spelled(at)} has the shape {shapes}"
            if kind == "parameter":
                yield from self._elsewhere(one, two, at) or ()
                continue
            constant = [name in m._non_persistent_buffers_set for m in (live, again)]
            if constant[0] != constant[1]:
                yield f"{spelled(at)} is in the state_dict of only one"
            elif constant[0] and one.shape == two.shape and not _same_values(one, two):
                yield f"{spelled(at)} has other values here than there"

    def _elsewhere(self, live: object, again: object, path: str) -> list[str] | None:
        """Return None if both are met for the first time, else whether they are shared alike."""
        met = [self.first[i].setdefault(id(o), path) for i, o in enumerate((live, again))]
        if met == [path, path]:
            return None
        if met[0] == met[1]:
            return []
        words = ("here", "there") if met[0] != path else ("there", "here")
        other = met[0] if met[0] != path else met[1]
        return [f"{spelled(path)} is {spelled(other)} itself {words[0]} but not {words[1]}"]


def _missing(path: str, kind: str, here: Mapping, there: Mapping) -> Iterator[str]:
    for name in {**here, **there}:
        if name not in here or name not in there:
            words = ("here", "there") if name in here else ("there", "here")
            at = spelled(_joined(path, name))
            yield f"{at} is a {kind} {words[0]} that is missing {words[1]}"


def _attributes(live: nn.Module, again: nn.Module, path: str) -> Iterator[str]:
    here, there = vars(live), vars(again)
    for name in here:
        if name in _MODULE_INTERNALS or name.startswith("_"):
            continue
        at, method = spelled(_joined(path, name)), getattr(type(live), name, None)
        if name in there:
            if not _same(here[name], there[name]):
                yield f"{at} is {_short(here[name])} here and {_short(there[name])} there"
        elif inspect.isroutine(method) and getattr(here[name], "__func__", None) is not method:
            yield f"{at} is not the method of {type(live).__name__} here"


def _same(one: Any, two: Any, depth: int = 0) -> bool:
    """Return whether attributes are equal, as far as they can be compared."""
    if one is two or depth > _DEPTH or isinstance(one, (nn.Module, weakref.WeakSet)):
        return True  # modules are compared as children
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.shape == two.shape and _same_values(one, two)
    if isinstance(one, type) or inspect.isroutine(one):
        return _full_name(one) == _full_name(two)
    if isinstance(one, (bool, int, float, complex, str, bytes, type(None))):
        return type(one) is type(two) and (one == two or (one != one and two != two))
    if type(one) is not type(two):
        return _full_name(type(one)) == _full_name(type(two))
    if isinstance(one, partial):
        return _same((one.func, one.args, one.keywords), (two.func, two.args, two.keywords), depth)
    if isinstance(one, (list, tuple)):
        pairs = zip(one, two, strict=False)
        return len(one) == len(two) and all(_same(a, b, depth + 1) for a, b in pairs)
    if isinstance(one, (set, frozenset)):
        return one == two
    if not isinstance(one, Mapping):
        one, two = (getattr(o, "__dict__", {}) for o in (one, two))
        one, two = ({k: v for k, v in o.items() if k[:1] != "_"} for o in (one, two))
    return one.keys() == two.keys() and all(_same(one[k], two[k], depth + 1) for k in one)


def _same_values(one: Tensor, two: Tensor) -> bool:
    """Return whether tensors are equal up to rounding in the coarser dtype."""
    if one.is_meta or two.is_meta:
        return True
    one, two = one.detach().cpu(), two.detach().cpu()
    if not (one.is_floating_point() and two.is_floating_point()):
        return torch.equal(one, two)
    rtol = 4 * max(torch.finfo(t.dtype).eps for t in (one, two))
    return torch.allclose(one.double(), two.double(), rtol=rtol, atol=0, equal_nan=True)


def _full_name(value: Any) -> tuple[str, str]:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", repr(value))
    return str(module), name


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _short(value: object) -> str:
    text = getattr(value, "__name__", None) or describe(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
