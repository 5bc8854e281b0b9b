"""What a graph takes for granted."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn

from ppl_vae.models.labels import Labels, known, looks

_PLAIN = (bool, int, float, str, type(None))


class Facts:
    """The plain attributes of modules and of other objects, and which tensors the modules have.

    Plain are numbers, strings, None and tuples of them: what tracing bakes into a graph. No module
    is kept alive, neither those given nor those in them.

    Args:
        modules: with all that are in them.
        others: objects whose attributes count, too.
        but: names of attributes of the other objects that do not.
    """

    def __init__(
        self, modules: Sequence[nn.Module], others: Sequence[object], but: tuple[str, ...] = ()
    ) -> None:
        inner = dict.fromkeys(module for root in modules for module in root.modules())
        self._modules = [_Seen(module) for module in inner]
        self._others = [(vars(other), _plain_names(vars(other), but)) for other in others]

    def same_structure(self) -> bool:
        """Tell whether modules have the modules, parameters, buffers and attributes they had."""
        return all(seen.is_the_same() for seen in self._modules)

    def values(self) -> tuple[object, ...]:
        """Return what the plain attributes are now, of modules that are as they were."""
        found: list[object] = []
        for seen in self._modules:
            found += seen.values()
        for attributes, names in self._others:
            found += map(attributes.get, names)
        return tuple(found)


class _Seen:
    """What a module had.

    Its dictionaries are looked up anew each time: by way of its attributes they may lead anywhere,
    and so to the module itself, which would never be collected.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)
        self._number = _number(module)
        self._plain = _plain_names(vars(module))
        self._modules = [
            (name, inner if inner is None else weakref.ref(inner))
            for name, inner in module._modules.items()
        ]
        self._parameters = list(module._parameters.items())
        self._buffers = list(module._buffers.items())

    def is_the_same(self) -> bool:
        module = self._module()
        if module is None or _number(module) != self._number:
            return False
        for name, inner in self._modules:
            if module._modules.get(name) is not (inner if inner is None else inner()):
                return False
        for name, parameter in self._parameters:
            if module._parameters.get(name) is not parameter:
                return False
        return all(module._buffers.get(name) is buffer for name, buffer in self._buffers)

    def values(self) -> Iterator[object]:
        module = self._module()
        assert module is not None, "the structure has changed"
        return map(vars(module).get, self._plain)


def _number(module: nn.Module) -> tuple[int, ...]:
    held = (vars(module), module._modules, module._parameters, module._buffers)
    return tuple(map(len, held))


def _plain_names(attributes: Mapping[str, Any], but: tuple[str, ...] = ()) -> list[str]:
    return [name for name, value in attributes.items() if name not in but and _is_plain(value)]


def kinds(tensors: Sequence[Tensor], labels: Sequence[Labels | None]) -> tuple[tuple, ...]:
    """Return what a graph takes for granted of its inputs.

    Of values that is whether some labels are missing, by which programs differ; those of other
    inputs, such as the indices of a batch, are not looked at: a look waits for the device.

    Raises:
        ValueError: if a label is out of range.
    """
    return tuple(
        (tuple(t.shape), t.dtype, t.device, None if of is None else of.check(t, len(t)))
        for t, of in zip(tensors, labels, strict=True)
    )


@contextmanager
def labels_among(tensors: Sequence[Tensor]) -> Iterator[list[Labels | None]]:
    """Yield a list that says afterwards of which labels a program took each of the tensors for."""
    found: list[Labels | None] = []
    with looks() as asked:
        yield found
    found += (next((labels for y, labels in asked if y is t), None) for t in tensors)


def seen(tensors: Sequence[Tensor], kinds: Sequence[tuple]) -> AbstractContextManager[None]:
    """Make a context in which programs take what :func:`kinds` says of labels for granted."""
    pairs = zip(tensors, kinds, strict=True)
    return known(*((t, missing) for t, (*_, missing) in pairs if missing is not None))


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)
