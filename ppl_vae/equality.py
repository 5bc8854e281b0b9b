"""Is a live module what another, built anew, is? Compared part by part, without running either."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.errors import describe

_OF_EVERY_MODULE = {*vars(nn.Module())}
"""Tables of parameters, buffers, children and hooks, and the mode."""
_DEPTH = 4
"""How deep into objects that are no modules is looked."""


def differences(live: nn.Module, again: nn.Module) -> Iterator[str]:
    """Yield in words where a live module is not like one that was built anew.

    Compared are types, children, names and shapes of parameters and buffers, which of them are one
    object in two places, the values of constants (buffers outside the ``state_dict``) and, of
    classes of torch, this package and zuko, attributes. What those of users mean only they know.

    Not compared are parameters' values, dtypes and devices, whether they are trained, the mode,
    and hooks.
    """
    return _Comparison().modules(live, again, "")


def spelled(path: str) -> str:
    """Return the path of a module in a pair as users spell it: without the program it is in."""
    program, _, rest = path.partition(".")
    return rest if rest and program in ("model", "guide") else path or "the module itself"


def is_foreign(module: nn.Module) -> bool:
    """Tell whether a module is of a class that is not torch's, zuko's or this package's."""
    package = type(module).__module__.partition(".")[0]
    return package not in ("torch", "zuko", __name__.partition(".")[0])


class _Comparison:
    """Walks both at once; knows where it met each object first."""

    def __init__(self) -> None:
        self.first: tuple[dict[int, str], dict[int, str]] = ({}, {})

    def modules(self, live: nn.Module, again: nn.Module, path: str) -> Iterator[str]:
        if live is again:
            return
        if (other := self._elsewhere(live, again, path)) is not None:
            yield from other
            return
        here, there = (_name(type(m)) for m in (live, again))
        if here != there:
            if here[1] == there[1]:
                here, there = ((".".join(name),) * 2 for name in (here, there))
            yield f"{spelled(path)} is {_a(here[1])} here and {_a(there[1])} there"
            return
        for kind in ("parameter", "buffer"):
            yield from self._tensors(live, again, path, kind)
        yield from _constants(live, again, path)
        if not is_foreign(live):
            yield from _attributes(live, again, path)
        yield from self._children(live, again, path)

    def _children(self, live: nn.Module, again: nn.Module, path: str) -> Iterator[str]:
        here, there = (
            {k: m for k, m in c._modules.items() if m is not None} for c in (live, again)
        )
        yield from _names(path, "module", here, there)
        common = [name for name in here if name in there]
        in_order = isinstance(live, (nn.Sequential, nn.ModuleList))
        if in_order and common != [name for name in there if name in here]:
            yield f"{spelled(path)} runs its modules in another order here than there"
        for name in common:
            yield from self.modules(here[name], there[name], _joined(path, name))

    def _tensors(self, live: nn.Module, again: nn.Module, path: str, kind: str) -> Iterator[str]:
        tables = (getattr(module, f"_{kind}s") for module in (live, again))
        here, there = ({k: t for k, t in table.items() if t is not None} for table in tables)
        yield from _names(path, kind, here, there)
        for name in [name for name in here if name in there]:
            one, two, at = here[name], there[name], _joined(path, name)
            if one.shape != two.shape:
                shapes = f"{tuple(one.shape)} here and {tuple(two.shape)} there"
                yield f"{spelled(at)} has the shape {shapes}"
            if kind == "parameter":
                yield from self._elsewhere(one, two, at) or ()

    def _elsewhere(self, live: object, again: object, path: str) -> list[str] | None:
        """Return None if neither was met before, and how they differ if one was elsewhere."""
        met = [self.first[i].setdefault(id(o), path) for i, o in enumerate((live, again))]
        if met == [path, path]:
            return None
        if met[0] == met[1]:
            return []
        words = ("here", "there") if met[0] != path else ("there", "here")
        other = met[0] if met[0] != path else met[1]
        shared = f"{spelled(path)} is {spelled(other)} itself {words[0]} and not {words[1]}"
        return [shared]


def _names(path: str, kind: str, here: Mapping, there: Mapping) -> Iterator[str]:
    for name in here:
        if name not in there:
            yield f"{spelled(_joined(path, name))} is a {kind} here that is not there"
    for name in there:
        if name not in here:
            yield f"{spelled(_joined(path, name))} is a {kind} there that is not here"


def _constants(live: nn.Module, again: nn.Module, path: str) -> Iterator[str]:
    kept = [m._non_persistent_buffers_set for m in (live, again)]
    for name in live._buffers.keys() & again._buffers.keys():
        one, two = live._buffers[name], again._buffers[name]
        if one is None or two is None:
            continue
        at = spelled(_joined(path, name))
        if (name in kept[0]) != (name in kept[1]):
            yield f"{at} is in the state_dict of only one"
        elif name in kept[0] and one.shape == two.shape and not _same_values(one, two):
            yield f"{at} has other values here than there"


def _attributes(live: nn.Module, again: nn.Module, path: str) -> Iterator[str]:
    here, there = vars(live), vars(again)
    for name in here:
        if name in _OF_EVERY_MODULE or name.startswith("_"):
            continue
        at = spelled(_joined(path, name))
        if name in there:
            if not _same(here[name], there[name]):
                yield f"{at} is {_told(here[name])} here and {_told(there[name])} there"
        elif not _is_own_method(live, name, here[name]):
            yield f"{at} is not the method of {type(live).__name__} here"


def _is_own_method(module: nn.Module, name: str, value: object) -> bool:
    """Tell whether an attribute leaves a method of the class, if there is one, as it is."""
    method = getattr(type(module), name, None)
    return not inspect.isroutine(method) or getattr(value, "__func__", None) is method


def _same(one: Any, two: Any, depth: int = 0) -> bool:
    """Tell whether attributes are the same, as far as that can be told."""
    if one is two or depth > _DEPTH or isinstance(one, (nn.Module, weakref.WeakSet)):
        return True  # modules are compared where they are children
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.shape == two.shape and _same_values(one, two)
    if isinstance(one, type) or inspect.isroutine(one):
        return _name(one) == _name(two)
    if isinstance(one, (bool, int, float, complex, str, bytes, type(None))):
        return type(one) is type(two) and (one == two or (one != one and two != two))
    if type(one) is not type(two):
        return _name(type(one)) == _name(type(two))
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
    """Tell whether tensors are the same to the rounding of the coarser one's dtype."""
    if one.is_meta or two.is_meta:
        return True
    one, two = one.detach().cpu(), two.detach().cpu()
    if not (one.is_floating_point() and two.is_floating_point()):
        return torch.equal(one, two)
    rtol = 4 * max(torch.finfo(t.dtype).eps for t in (one, two))
    return torch.allclose(one.double(), two.double(), rtol=rtol, atol=0, equal_nan=True)


def _name(value: Any) -> tuple[str, str]:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", repr(value))
    return str(module), name


def _a(name: str) -> str:
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _told(value: object) -> str:
    told = getattr(value, "__name__", None) or describe(value)
    return told if len(told) <= 60 else f"{told[:57]}..."
