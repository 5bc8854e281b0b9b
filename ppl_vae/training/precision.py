r"""Mixed precision, ``"bf16-mixed"``: networks in bfloat16, densities in float32.

Matrix products and convolutions of networks, forward and backward, take operands in bfloat16 (8
significant bits), sum in float32 and round the result to bfloat16; between them, activations are
in bfloat16. A network's output is cast to float32 before a distribution sees it. Densities, KLs,
log-weights, sums over events and data, weights and the optimiser are in float32, and so are sums of
a weight's gradients over several calls of its network. Evaluation and validation are in the pair's
own precision throughout.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ppl_vae.conditional import ConditionalDistribution
from ppl_vae.errors import describe

MIXED = "bf16-mixed"


def check_precision(owner: str, precision: object) -> None:
    """Raise an error unless a precision is None or ``"bf16-mixed"``."""
    if precision is None or precision == MIXED:
        return
    error = ValueError if isinstance(precision, str) else TypeError
    raise error(
        f"{owner}: precision must be {MIXED!r} (networks in bfloat16, densities in float32) or "
        f"None (all as the pair is, which pair.float() and pair.double() convert), got "
        f"{describe(precision)}"
    )


def check_mixed(owner: str, programs: nn.Module, device: torch.device, *, depth: int) -> None:
    """Raise ValueError unless the networks of programs can be run in mixed precision.

    A device without arithmetic in bfloat16 brings a warning. ``depth`` is that of the caller below
    the function that a user calls.
    """
    for network in networks(programs):
        for name, parameter in network.named_parameters():
            if parameter.is_floating_point() and parameter.dtype is not torch.float32:
                raise ValueError(
                    f"{owner}: precision {MIXED!r} is for networks in float32, and {name!r} of a "
                    f"{type(network).__name__} is in {parameter.dtype}; convert the pair, "
                    f"pair.float(), or train in its own precision"
                )
    lacking = _lacks_bfloat16(device)
    if lacking:
        warnings.warn(
            f"{owner}: precision {MIXED!r} is likely slower here than float32: {lacking}",
            stacklevel=depth + 3,
        )


def _lacks_bfloat16(device: torch.device) -> str:
    """Return why a device has no arithmetic in bfloat16; an empty string if it has."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        return f"{name} has no arithmetic in bfloat16 (torch.cuda.is_bf16_supported)"
    if device.type != "cpu":
        return ""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return ""
        return "the processor has no arithmetic in bfloat16 (torch.ops.mkldnn)"
    # oneDNN runs in bfloat16 on any AVX-512, but by conversions: slower than float32.
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return ""
    return "the processor has neither AVX512-BF16 nor AMX (by torch.cpu)"


@contextmanager
def networks_only(programs: nn.Module, device: str) -> Iterator[None]:
    """Restrict ``torch.autocast``, if it is enabled, to the networks of programs.

    A log-density sums hundreds of terms of different signs: in bfloat16, with 8 bits, its error is
    several nats. Networks tolerate that. So autocast is disabled, enabled again within each
    network, and a network's output is cast back.

    The networks are the largest modules that contain no conditional distribution, inside one or, in
    programs of your own, inside the program. What a distribution itself calls, such as the networks
    of a flow, stays in full precision.

    A weight is cast once per call of its network. Autocast would keep it for all calls, and sum
    their gradients in bfloat16; and after the optimiser's step, within an outer ``torch.autocast``.

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
        torch.clear_autocast_cache()
        return tree_map(lambda t: t.float() if _has_dtype(t, dtype) else t, output)

    yield network.register_forward_pre_hook(enter)
    yield network.register_forward_hook(leave, always_call=True)


def _has_dtype(value: object, dtype: torch.dtype) -> bool:
    return isinstance(value, Tensor) and value.dtype is dtype
