"""Mixed precision: networks in bfloat16, densities in full precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ppl_vae.conditional import ConditionalDistribution


@contextmanager
def networks_only(programs: nn.Module, device: str) -> Iterator[None]:
    """Restrict ``torch.autocast``, if it is enabled, to the networks of programs.

    A log-density sums hundreds of terms of different signs: in bfloat16, with 8 bits, its error is
    several nats. Networks tolerate that. So autocast is disabled, enabled again within each
    network, and a network's output is cast back.

    The networks are the largest modules that contain no conditional distribution, inside one or, in
    programs of your own, inside the program. What a distribution itself calls, such as the networks
    of a flow, stays in full precision.

    Args:
        programs: has programs as its children.
        device: the type of device that they are on.
    """
    if not torch.is_autocast_enabled(device):
        yield
        return
    dtype = torch.get_autocast_dtype(device)
    with ExitStack() as stack:
        for network in networks(programs):
            for handle in _autocast_hooks(network, device, dtype):
                stack.callback(handle.remove)
        with torch.autocast(device, enabled=False):
            yield


def networks(programs: nn.Module) -> list[nn.Module]:
    """Return the networks of programs, each once."""
    found: dict[nn.Module, None] = {}

    def look(module: nn.Module) -> None:
        for child in module.children():
            inner = any(isinstance(m, ConditionalDistribution) for m in child.modules())
            if inner or isinstance(child, (nn.ModuleList, nn.ModuleDict)):
                look(child)
            else:
                found[child] = None

    for program in programs.children():
        look(program)
    return list(found)


def _autocast_hooks(network: nn.Module, device: str, dtype: torch.dtype) -> Iterator[Any]:
    regions: list[Any] = []

    def enter(*_: Any) -> None:
        region = torch.autocast(device, dtype=dtype)
        region.__enter__()
        regions.append(region)

    def leave(_: nn.Module, __: Any, output: Any) -> Any:
        regions.pop().__exit__(None, None, None)
        return tree_map(lambda t: t.float() if _has_dtype(t, dtype) else t, output)

    yield network.register_forward_pre_hook(enter)
    yield network.register_forward_hook(leave, always_call=True)


def _has_dtype(value: object, dtype: torch.dtype) -> bool:
    return isinstance(value, Tensor) and value.dtype is dtype
