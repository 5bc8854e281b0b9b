"""Runs of programs that must not move their running means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@contextmanager
def untouched(*modules: nn.Module) -> Iterator[None]:
    """Leave the buffers of modules as they were, whether they are changed in place or replaced.

    Not those that are made within, nor those that a guide, when it first runs, replaces by others
    of another shape. To see what has changed, the host waits for the device once.
    """
    held = _held(modules)
    before = {b: b.detach().clone() for _, _, b in held if _has_plain_values(b)}
    try:
        yield
    finally:
        _put_in_place(held)
        _put_back(before)


@contextmanager
def on_copies(*modules: nn.Module) -> Iterator[None]:
    """Run modules on copies of their buffers: as :func:`untouched`, and nothing waits.

    Graphs must not be made within, as they hold the tensors that they find.
    """
    held = _held(modules)
    copies = {b: b.detach().clone() for _, _, b in held if _has_plain_values(b)}
    for part, name, buffer in held:
        part._buffers[name] = copies.get(buffer, buffer)
    try:
        yield
    finally:
        _put_in_place(held)


def _held(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    """Return all buffers, each with where it is."""
    inner = dict.fromkeys(part for module in modules for part in module.modules())
    return [
        (part, name, buffer)
        for part in inner
        for name, buffer in part._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]


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
