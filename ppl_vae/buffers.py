"""Buffers that runs of programs move, such as running means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@contextmanager
def kept_buffers(*modules: nn.Module) -> Iterator[None]:
    """Leave the buffers of modules as they were, whether they are changed in place or replaced.

    Not those that are made within, nor those that a guide, when it first runs, replaces by others
    of another shape. To see what has changed, the host waits for the device once.
    """
    held = _held(modules)
    before = _copies(held)
    try:
        yield
    finally:
        _restore(held, before)


@contextmanager
def on_copies(*modules: nn.Module) -> Iterator[None]:
    """Run modules on copies of their buffers: as :func:`kept_buffers`, and nothing waits.

    Graphs must not be made within, as they hold the tensors that they find.
    """
    held = _held(modules)
    copies = _copies(held)
    for part, name, buffer in held:
        part._buffers[name] = copies.get(buffer, buffer)
    try:
        yield
    finally:
        _put_in_place(held)


class Moving:
    """The buffers that steps of a training move, to be put back where a step is not taken.

    Which they are is found at the first step, and again when modes change or a step has written to
    others: where nothing moves, nothing is copied. On a GPU the finding waits for it.

    Args:
        module: holds them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._modules: list[nn.Module] = []
        self._modes: list[bool] | None = None
        self._like: object = None
        self._moving: list[nn.Module] = []
        self._others: list[nn.Module] = []
        self._before: dict[Tensor, Tensor] = {}
        self._stamps: list[tuple[int, int]] = []

    def keep(self, like: object = None) -> Callable[[], None]:
        """Return a function that lets buffers be as they are now; to be called before a step.

        Args:
            like: the same object for steps that move the same buffers, but for modes.
        """
        if self._modes is None or self._like is not like or self._modes != _modes(self._modules):
            self._like, self._modules = like, [*self._module.modules()]
            self._modes = None
            self._moving, self._others = [m for m in self._modules if m._buffers], []
        held = _held_by(self._moving)
        self._before = _copies(held)
        self._stamps = _stamps(self._others)
        return partial(_restore, held, self._before)

    def look(self) -> None:
        """See which buffers a step's run has moved; to be called after it."""
        if self._modes is not None:
            if self._others and self._stamps != _stamps(self._others):
                self._modes = None
            return
        moved = {
            part
            for part in self._moving
            for buffer in _plain(part)
            if buffer not in self._before or bool(_differ(buffer, self._before[buffer]))
        }
        self._others = [part for part in self._moving if part not in moved]
        self._moving = [part for part in self._moving if part in moved]
        self._before = {}
        self._modes = _modes(self._modules)


def _modes(modules: Iterable[nn.Module]) -> list[bool]:
    return [module.training for module in modules]


def _plain(part: nn.Module) -> list[Tensor]:
    return [buffer for _, _, buffer in _held_by([part]) if _has_plain_values(buffer)]


def _stamps(parts: Iterable[nn.Module]) -> list[tuple[int, int]]:
    """Return what tells that a buffer was replaced or written to."""
    return [
        (id(buffer), buffer._version)
        for part in parts
        for buffer in part._buffers.values()
        if buffer is not None and not buffer.is_inference()
    ]


def _restore(held: list[tuple[nn.Module, str, Tensor]], before: dict[Tensor, Tensor]) -> None:
    _put_in_place(held)
    _put_back(before)


def _held(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    """Return all buffers, each with where it is."""
    return _held_by(dict.fromkeys(part for module in modules for part in module.modules()))


def _held_by(parts: Iterable[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    return [
        (part, name, buffer)
        for part in parts
        for name, buffer in part._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]


def _copies(held: Iterable[tuple[nn.Module, str, Tensor]]) -> dict[Tensor, Tensor]:
    return {b: b.detach().clone() for _, _, b in held if _has_plain_values(b)}


def _put_in_place(held: Iterable[tuple[nn.Module, str, Tensor]]) -> None:
    for part, name, buffer in held:
        now = part._buffers.get(name)
        if now is not None and now is not buffer and _alike(now, buffer):
            part._buffers[name] = buffer


def _has_plain_values(buffer: Tensor) -> bool:
    return buffer.layout is torch.strided and not (buffer.is_quantized or buffer.is_meta)


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


@torch.no_grad()
def _put_back(before: dict[Tensor, Tensor]) -> None:
    """Copy values where there are others now.

    Only there: a graph may wait for its backward pass with a buffer that it must find unchanged.
    Versions do not tell, as batch normalisation does not count its updates.
    """
    pairs = [(now, then) for now, then in before.items() if _alike(now, then)]
    far = [_differ(now, then) for now, then in pairs if now.device.type != "cpu"]
    # One answer for all there, as a rule: each has to be waited for.
    some_far = bool(far) and any(flag.item() for flag in _by_device(far))
    for now, then in pairs:
        if now.device.type == "cpu":
            changed = not torch.equal(now, then) and bool(_differ(now, then))
        else:
            changed = some_far and bool(_differ(now, then))
        if changed:
            with torch.inference_mode(now.is_inference()):
                now.copy_(then)


def _differ(now: Tensor, then: Tensor) -> Tensor:
    return ((now != then) & ~(now.isnan() & then.isnan())).any()


def _by_device(flags: list[Tensor]) -> list[Tensor]:
    devices = {flag.device for flag in flags}
    return [torch.stack([f for f in flags if f.device == d]).any() for d in devices]
