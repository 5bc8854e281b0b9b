"""Protection of buffers that running a program changes, such as running means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import compress

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy


@contextmanager
def kept_buffers(*modules: nn.Module) -> Iterator[None]:
    """Restore the buffers of modules on exit, whether they are changed in place or replaced.

    Buffers made within stay, and so do those that a guide, when it first runs, replaces by buffers
    of another shape. Synchronises with the device once, to see what has changed.
    """
    held = _buffers_of(modules)
    before = _copies(held)
    try:
        yield
    finally:
        _restore(held, before)


@contextmanager
def kept_on_error(*modules: nn.Module) -> Iterator[None]:
    """Restore the buffers of modules if an error is raised within."""
    held = _buffers_of(modules)
    before = _copies(held)
    try:
        yield
    except BaseException:
        _restore(held, before)
        raise


@contextmanager
def on_copies(*modules: nn.Module) -> Iterator[None]:
    """Run modules on copies of their buffers: like :func:`kept_buffers`, without synchronisation.

    No graphs may be captured within, as they would hold the copies.
    """
    held = _buffers_of(modules)
    copies = _copies(held)
    for part, name, buffer in held:
        part._buffers[name] = copies.get(buffer, buffer)
    try:
        yield
    finally:
        _put_in_place(held)


class BuffersOfParts:
    """The buffers of modules that run on a batch in parts, as if they ran once.

    Each part starts from the buffers there were. Afterwards a buffer that parts have written to is
    the mean of what they left, weighted by their sizes, as it is for a running mean of the whole;
    of integers, what the last one left.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._held = _buffers_of(modules)
        self._before = _copies(self._held)
        self._left: dict[Tensor, list[tuple[int, Tensor]]] = {}

    @contextmanager
    def part(self, size: int, *, again: bool = False) -> Iterator[None]:
        """Run a part of a size; one that runs ``again`` leaves nothing."""
        copies = {buffer: then.clone() for buffer, then in self._before.items()}
        for part, name, buffer in self._held:
            part._buffers[name] = copies.get(buffer, buffer)
        try:
            yield
            if not again:
                self._keep(size, copies)
        finally:
            _put_in_place(self._held)

    @torch.no_grad()
    def merge(self) -> None:
        """Write what the parts have left."""
        for buffer, left in self._left.items():
            if buffer.is_floating_point():
                total = sum(size for size, _ in left)
                buffer.copy_(torch.stack([size / total * now for size, now in left]).sum(0))
            else:
                buffer.copy_(left[-1][1])

    def _keep(self, size: int, copies: dict[Tensor, Tensor]) -> None:
        for part, name, buffer in self._held:
            now, copy = part._buffers[name], copies.get(buffer)
            if now is None or copy is None or not _same_kind(now, buffer):
                continue
            # Batch normalisation does not count its updates.
            counted = now is not copy or now._version > 0
            if counted or (isinstance(part, _NormBase) and part.training):
                self._left.setdefault(buffer, []).append((size, now.detach()))


class MovingBuffers:
    """The buffers of a module that training steps change, restored if a step is not taken.

    They are found by comparison at the first step, and again when modes change or a step has
    written to other buffers; the rest is not copied. The comparison synchronises with the GPU.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._modules: list[nn.Module] = []
        self._modes: list[bool] | None = None
        self._key: object = None
        self._moving: list[nn.Module] = []
        self._others: list[nn.Module] = []
        self._before: dict[Tensor, Tensor] = {}
        self._stamps: list[tuple[int, int]] = []

    def snapshot(self, key: object = None) -> Callable[[], None]:
        """Return a function that restores the present buffers; call this before a step.

        ``key`` is the same object for steps that change the same buffers in the same modes.
        """
        if self._modes is None or self._key is not key or self._modes != _modes(self._modules):
            self._key, self._modules = key, [*self._module.modules()]
            self._modes = None
            self._moving, self._others = [m for m in self._modules if m._buffers], []
        held = _buffers_in(self._moving)
        self._before = _copies(held)
        self._stamps = _stamps(self._others)
        return partial(_restore, held, self._before)

    def update(self) -> None:
        """Find which buffers a step has changed; call this after it."""
        if self._modes is not None:
            if self._others and self._stamps != _stamps(self._others):
                self._modes = None
            return
        before = self._before
        moved = {
            part
            for part, _, buffer in _buffers_in(self._moving)
            if _can_be_copied(buffer)
            and (buffer not in before or bool(_differ(buffer, before[buffer])))
        }
        self._others = [part for part in self._moving if part not in moved]
        self._moving = [part for part in self._moving if part in moved]
        self._before = {}
        self._modes = _modes(self._modules)


def _modes(modules: Iterable[nn.Module]) -> list[bool]:
    return [module.training for module in modules]


def _stamps(parts: Iterable[nn.Module]) -> list[tuple[int, int]]:
    """Return ids and versions, which change when a buffer is replaced or written to."""
    return [
        (id(buffer), buffer._version)
        for part in parts
        for buffer in part._buffers.values()
        if buffer is not None and not buffer.is_inference()
    ]


def _restore(held: list[tuple[nn.Module, str, Tensor]], before: dict[Tensor, Tensor]) -> None:
    _put_in_place(held)
    _put_back(before)


def _buffers_of(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    return _buffers_in(dict.fromkeys(part for module in modules for part in module.modules()))


def _buffers_in(parts: Iterable[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    return [
        (part, name, buffer)
        for part in parts
        for name, buffer in part._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]


def _copies(held: Iterable[tuple[nn.Module, str, Tensor]]) -> dict[Tensor, Tensor]:
    return {b: b.detach().clone() for _, _, b in held if _can_be_copied(b)}


def _put_in_place(held: Iterable[tuple[nn.Module, str, Tensor]]) -> None:
    for part, name, buffer in held:
        now = part._buffers.get(name)
        if now is not None and now is not buffer and _same_kind(now, buffer):
            part._buffers[name] = buffer


def _can_be_copied(buffer: Tensor) -> bool:
    return buffer.layout is torch.strided and not (buffer.is_quantized or buffer.is_meta)


def _same_kind(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


@torch.no_grad()
def _put_back(before: dict[Tensor, Tensor]) -> None:
    """Copy values back, only where they have changed.

    A graph that waits for its backward pass may need an unchanged buffer. Versions are no help, as
    batch normalisation does not count its updates.
    """
    pairs: dict[torch.device, list[tuple[Tensor, Tensor]]] = {}
    for now, then in before.items():
        if _same_kind(now, then):
            pairs.setdefault(now.device, []).append((now, then))
    for device, held in pairs.items():
        if device.type == "cpu":
            changed = [not torch.equal(*pair) and bool(_differ(*pair)) for pair in held]
        else:  # one synchronisation for all of them
            changed = torch.stack([_differ(*pair) for pair in held]).tolist()
        for now, then in compress(held, changed):
            with torch.inference_mode(now.is_inference()):
                now.copy_(then)


def _differ(now: Tensor, then: Tensor) -> Tensor:
    return ((now != then) & ~(now.isnan() & then.isnan())).any()
