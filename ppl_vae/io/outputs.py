"""Comparison of two pairs by running their modules on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules.module import register_module_forward_pre_hook

from ppl_vae.equality import spelled
from ppl_vae.process_state import restored

Calls = dict[nn.Module, tuple[Any, ...]]


@contextmanager
def recorded() -> Iterator[Calls]:
    """Record the last inputs of every module: a pair runs its parts while it is built."""
    calls: Calls = {}

    def record(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[module] = inputs

    handle = register_module_forward_pre_hook(record)
    try:
        yield calls
    finally:
        handle.remove()


def different_outputs(live: nn.Module, again: nn.Module, calls: Calls) -> Iterator[str]:
    """Describe the modules whose outputs differ between a live pair and one that was rebuilt.

    Each module is run on random inputs of the shapes in ``calls``, in evaluation and in training
    mode, from the same random state, innermost modules first. The live modules are not run, but
    shadows of them with their classes, attributes and hooks, and the tensors of the rebuilt pair:
    the live pair is unchanged, and may be trained meanwhile. The rebuilt pair is changed.
    """
    found = []
    shadow = _shadow(live, again, {})
    with restored(), torch.no_grad():
        for path, module in sorted(again.named_modules(), key=lambda item: -item[0].count(".")):
            if module not in calls:
                continue
            twin = shadow.get_submodule(path)
            device = next((t.device for t in (*module.parameters(), *module.buffers())), "cpu")
            inputs = _random(calls[module], device)
            for mode in ("evaluation", "training"):
                # Another thread may have drawn from the generator in between.
                if not any(_same_outputs(twin, module, inputs, mode) for _ in range(TRIES)):
                    found.append(
                        f"{spelled(path)} has different outputs here and there, in {mode} mode"
                    )
                    break
    return iter(found)


TRIES = 3
"""Runs of two modules before their outputs are said to differ."""


def _shadow(live: nn.Module, again: nn.Module, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """Return a module that computes what a live one does, with the tensors of a rebuilt one."""
    if live in made:
        return made[live]
    made[live] = shadow = object.__new__(type(live))
    vars(shadow).update(vars(live))
    constants = live._non_persistent_buffers_set
    buffers = {
        name: live._buffers[name] if name in constants else buffer
        for name, buffer in again._buffers.items()
    }
    vars(shadow).update(
        _parameters=dict(again._parameters),
        _buffers={name: b if b is None else b.clone() for name, b in buffers.items()},
        _modules={
            name: child if child is None else _shadow(child, again.get_submodule(name), made)
            for name, child in live._modules.items()
        },
    )
    return shadow


def _random(inputs: Any, device: torch.device | str) -> Any:
    """Replace floating-point tensors by standard-normal ones."""
    if isinstance(inputs, Tensor):
        inputs = inputs.to(device)
        return torch.randn_like(inputs) if inputs.is_floating_point() else inputs
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(_random(item, device) for item in inputs)
    return inputs


def _same_outputs(one: nn.Module, two: nn.Module, inputs: tuple[Any, ...], mode: str) -> bool:
    outputs = []
    for module in (one, two):
        module.train(mode == "training")
        torch.manual_seed(1)
        outputs.append(_result(module, *inputs))
    return _equal(*outputs)


def _result(function: Callable[..., Any], *inputs: Any) -> Any:
    """Return a function's result, or the class of its error."""
    try:
        return function(*inputs)
    except Exception as error:  # such as batch normalisation's, of a single datum
        return type(error)


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        if one.shape != two.shape or one.dtype != two.dtype:
            return False
        if not one.is_floating_point():
            return torch.equal(one, two)
        # Kernels may sum in a different order each time.
        atol = torch.finfo(one.dtype).eps ** 0.75
        return torch.allclose(one, two, rtol=100 * atol, atol=atol, equal_nan=True)
    if isinstance(one, Distribution) and isinstance(two, Distribution):
        value = _result(one.sample)
        return type(one) is type(two) and _equal(*(_result(p.log_prob, value) for p in (one, two)))
    if isinstance(one, (tuple, list)) and isinstance(two, (tuple, list)):
        pairs = zip(one, two, strict=False)
        return len(one) == len(two) and all(_equal(a, b) for a, b in pairs)
    if isinstance(one, (type, str)) or isinstance(two, (type, str)):
        return one == two
    return type(one) is type(two) or type(one).__qualname__ == type(two).__qualname__
