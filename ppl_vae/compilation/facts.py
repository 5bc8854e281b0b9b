"""What a graph takes for granted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ppl_vae.models.labels import some_missing

_PLAIN = (bool, int, float, str, type(None))


class Facts:
    """The plain attributes of modules and of other objects, and which tensors the modules have.

    Plain are numbers, strings, None and tuples of them: what tracing bakes into a graph. No module
    of those given is kept alive.

    Args:
        modules: with all that are in them.
        others: objects whose attributes count, too.
        but: names of attributes of the other objects that do not.
    """

    def __init__(
        self, modules: Sequence[nn.Module], others: Sequence[object], but: tuple[str, ...] = ()
    ) -> None:
        self._structure: list[tuple[dict[str, Any], str, object]] = []
        self._places: list[tuple[dict[str, Any], str]] = []
        for module in (inner for root in modules for inner in root.modules()):
            for held in (module._modules, module._parameters, module._buffers):
                self._structure += [(held, name, value) for name, value in held.items()]
            self._note(vars(module))
        for other in others:
            self._note(vars(other), but)

    def same_structure(self) -> bool:
        """Tell whether modules, parameters and buffers are still the same objects."""
        return all(held.get(name) is value for held, name, value in self._structure)

    def values(self) -> tuple[object, ...]:
        """Return what the attributes are now."""
        return tuple([held.get(name) for held, name in self._places])

    def _note(self, attributes: dict[str, Any], but: tuple[str, ...] = ()) -> None:
        self._places += [
            (attributes, name)
            for name, value in attributes.items()
            if name not in but and _is_plain(value)
        ]


def kinds(tensors: Sequence[Tensor]) -> tuple[tuple, ...]:
    """Return what a graph takes for granted of its inputs.

    Of their values that is whether some labels are missing, by which programs differ.
    """
    return tuple(
        (tuple(t.shape), t.dtype, t.device, not t.is_floating_point() and some_missing(t))
        for t in tensors
    )


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)
