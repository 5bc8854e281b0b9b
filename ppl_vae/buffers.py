"""A look at programs that must not move their running means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@contextmanager
def untouched(*modules: nn.Module) -> Iterator[None]:
    """Leave the buffers of modules as they were, whether they are changed in place or replaced."""
    # Not those that are made within, nor those that a guide, when it first runs, replaces by
    # others of another shape.
    inner = dict.fromkeys(part for module in modules for part in module.modules())
    held = [
        (part, name, buffer)
        for part in inner
        for name, buffer in part._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    before = {b: b.detach().clone() for _, _, b in held if _has_plain_values(b)}
    try:
        yield
    finally:
        for part, name, buffer in held:
            now = part._buffers.get(name)
            if now is not None and now is not buffer and _alike(now, buffer):
                part._buffers[name] = buffer
        _put_back(before)


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
    changed = [((now != then) & ~(now.isnan() & then.isnan())).any() for now, then in pairs]
    # All of a device at once: each answer has to be waited for.
    by_device: dict[torch.device, list[Tensor]] = {}
    for flag in changed:
        by_device.setdefault(flag.device, []).append(flag)
    some = {device for device, flags in by_device.items() if torch.stack(flags).any()}
    for (now, then), flag in zip(pairs, changed, strict=True):
        if flag.device in some and flag:
            with torch.inference_mode(now.is_inference()):
                now.copy_(then)
