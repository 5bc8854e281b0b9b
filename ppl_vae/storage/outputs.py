"""Do two pairs compute the same? Their modules are run on the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules.module import register_module_forward_pre_hook

from ppl_vae.likeness import spelled
from ppl_vae.randomness import restored

Calls = dict[nn.Module, tuple[Any, ...]]


@contextmanager
def recorded() -> Iterator[Calls]:
    """Record what modules were last called with: a pair runs its parts when it is built."""
    calls: Calls = {}

    def record(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[module] = inputs

    handle = register_module_forward_pre_hook(record)
    try:
        yield calls
    finally:
        handle.remove()


def different_outputs(live: nn.Module, again: nn.Module, calls: Calls) -> Iterator[str]:
    """Yield in words where a live pair computes something else than one that was built anew.

    Both have the same structure, the same numbers and the same devices. Each module is run on
    random numbers of the shapes that it was called with, in evaluation and in training mode, with
    the same random state; what is innermost comes first. Nothing is left changed.

    Args:
        live: the pair.
        again: the other.
        calls: of modules of the latter.
    """
    paths = sorted(again.named_modules(), key=lambda item: -item[0].count("."))
    for path, module in paths:
        if module not in calls:
            continue
        here = live.get_submodule(path)
        device = next((t.device for t in (*here.parameters(), *here.buffers())), "cpu")
        for training in (False, True):
            inputs = _random(calls[module], device)
            one, two = (_run(m, inputs, training) for m in (here, module))
            if not _alike(one, two):
                mode = "training" if training else "evaluation"
                yield f"{spelled(path)} gives other outputs here than there, in {mode} mode"
                break


def _random(inputs: Any, device: torch.device | str) -> Any:
    """Return standard-normal numbers in the place of floating-point tensors."""
    if isinstance(inputs, Tensor):
        inputs = inputs.to(device)
        with restored():
            torch.manual_seed(0)
            return torch.randn_like(inputs) if inputs.is_floating_point() else inputs
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(_random(item, device) for item in inputs)
    return inputs


def _run(module: nn.Module, inputs: tuple[Any, ...], training: bool) -> Any:
    """Return what a module makes of inputs, or the class of its error, and leave it as it was."""
    with restored(), torch.no_grad(), _untouched(module):
        for inner in module.modules():
            inner.training = training
        torch.manual_seed(1)
        try:
            return _numbers(module(*inputs))
        except Exception as error:  # such as batch normalisation's, of a single datum
            return type(error)


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Leave the attributes, the buffers and the modes of a module as they were."""
    attributes = [(inner, dict(vars(inner))) for inner in module.modules()]
    tables = [(inner._buffers, dict(inner._buffers)) for inner in module.modules()]
    values = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for inner, before in attributes:
            vars(inner).clear()
            vars(inner).update(before)
        for table, buffers in tables:
            table.clear()
            table.update(buffers)
        for buffer, value in values:
            buffer.copy_(value)


def _numbers(output: Any) -> Any:
    """Return a distribution as a draw and its density."""
    if isinstance(output, Distribution):
        draw = output.sample()
        return type(output).__name__, draw, output.log_prob(draw)
    if isinstance(output, (tuple, list)):
        return [_numbers(item) for item in output]
    return output


def _alike(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        if one.shape != two.shape or one.dtype != two.dtype:
            return False
        if not one.is_floating_point():
            return torch.equal(one, two)
        # Weights have another layout in memory here and there, and sums another order.
        atol = torch.finfo(one.dtype).eps ** 0.75
        return torch.allclose(one, two, rtol=100 * atol, atol=atol, equal_nan=True)
    if isinstance(one, (tuple, list)) and isinstance(two, (tuple, list)):
        pairs = zip(one, two, strict=False)
        return len(one) == len(two) and all(_alike(a, b) for a, b in pairs)
    if isinstance(one, (type, str)) or isinstance(two, (type, str)):
        return one == two
    return type(one) is type(two) or type(one).__qualname__ == type(two).__qualname__
