"""Tracing where a number that is not finite first appears."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ppl_vae.buffers import kept_buffers
from ppl_vae.process_state import restored
from ppl_vae.random_state import set_generators


class NotFiniteError(ArithmeticError):
    """A loss or gradient was infinite or NaN; the step was not taken.

    Args:
        step: its number, from 0.
        origin: where the number first appeared, in words.
        saved: where the last checkpoint is, in words; empty if there is none.
        owner: the function that trains.
    """

    def __init__(self, step: int, origin: str, saved: str = "", owner: str = "fit") -> None:
        where, clipping = (f" {saved}.", "clip_norm=, ") if saved else ("", "")
        super().__init__(
            f"{owner}: step {step}: {origin}. The step was not taken; the pair has its previous "
            f"weights.{where} A lower learning rate, {clipping}or a lower bound on the scale of "
            f"the likelihood or posterior, such as min_scale=0.01, often helps"
        )
        self.step = step
        self.origin = origin
        self.saved = saved
        self._owner = owner

    def __reduce__(self) -> tuple[type[NotFiniteError], tuple[int, str, str, str]]:
        return type(self), (self.step, self.origin, self.saved, self._owner)


OVERFLOW = "loss and gradients are finite, but their norm overflows"
FROM_ESTIMATOR = "all densities are finite, so it comes from the estimator"
"""What :func:`find_origin` returns where it finds nothing."""


def find_origin(
    module: nn.Module,
    states: Mapping[torch.device, Tensor],
    forward: Callable[[], Tensor],
    loss: Tensor,
) -> str:
    """Return a description of where the first number that is not finite appears.

    Args:
        module: holds the programs.
        states: of the random number generators before the step.
        forward: runs the step's forward pass.
        loss: of the step, in this process.
    """
    bad = [name for name, p in module.named_parameters() if not _is_finite(p)]
    if bad:
        return f"parameter {_first(bad)} is not finite before the step"
    if not _is_finite(loss):
        found, _ = _observe(module, states, forward, backward=False)
        return f"the loss is {_describe(loss)}: {found[0] if found else FROM_ESTIMATOR}"
    found, bad = _observe(module, states, forward, backward=True)
    if bad:
        where = f", first seen in the backward pass at {found[0]}" if found else ""
        return f"the loss is finite, but the gradient of parameter {_first(bad)} is not{where}"
    return OVERFLOW


def _observe(
    module: nn.Module,
    states: Mapping[torch.device, Tensor],
    forward: Callable[[], Tensor],
    *,
    backward: bool,
) -> tuple[list[str], list[str]]:
    """Run a step; return what is not finite, in order, and the parameters' names."""
    observer, bad = _Observer(backward), []
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    with (
        restored(),
        kept_buffers(module),
        _observed_modules(module, observer),
        observer,
        pyro.validation_enabled(False),
        suppress(Exception),  # what was found before an error explains it
    ):
        set_generators(states)
        loss = forward()
        if backward:
            gradients = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
            named = zip(parameters, gradients, strict=True)
            bad = [name for name, grad in named if grad is not None and not _is_finite(grad)]
    return observer.found, bad


class _Observer(Messenger):
    """Records sites whose value or log-density (or, backward, gradient) is not finite, in order."""

    def __init__(self, backward: bool) -> None:
        super().__init__()
        self.backward = backward
        self.found: list[str] = []

    def check(self, name: str, value: Tensor, details: str = "") -> None:
        """Record a value that is not finite; in a backward pass, its gradient."""
        if not self.backward:
            if not _is_finite(value):
                self.found.append(f"{name} is {_describe(value)}{details}")
        elif value.requires_grad:
            value.register_hook(partial(self._check_gradient, name))

    def _check_gradient(self, name: str, gradient: Tensor) -> None:
        if not _is_finite(gradient):
            self.found.append(name)

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg) or not isinstance(msg["value"], Tensor):
            return
        name, value, fn = msg["name"], msg["value"], msg["fn"]
        self.check(f"site {name!r}: its value", value, f" (drawn from {_class_name(fn)})")
        if not self.backward and _is_finite(value):
            kind = "observed" if msg["is_observed"] else "latent"
            density = f"site {name!r} ({kind}): its log-density under {_class_name(fn)}"
            self.check(density, fn.log_prob(value), _parameter_ranges(fn))


@contextmanager
def _observed_modules(module: nn.Module, observer: _Observer) -> Iterator[None]:
    """Record modules whose output is not finite, the innermost first."""

    def hook(name: str, _: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            observer.check(f"the output of module {name!r}", output)

    with ExitStack() as stack:
        for name, child in module.named_modules():
            if name:
                handle = child.register_forward_hook(partial(hook, name))
                stack.callback(handle.remove)
        yield


def _is_finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())


def _base(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _class_name(fn: Any) -> str:
    return type(_base(fn)).__name__


def _parameter_ranges(fn: Any) -> str:
    """Describe the range of each parameter of a distribution: a zero scale, a huge mean."""
    base = _base(fn)
    values = {n: vars(base).get(n) for n in getattr(base, "arg_constraints", {})}
    ranges = [
        f"{name} from {value.min():.3g} to {value.max():.3g}"
        for name, value in values.items()
        if isinstance(value, Tensor) and value.numel()
    ]
    return f" ({', '.join(ranges)})" if ranges else ""


def _describe(values: Tensor) -> str:
    count = int((~values.isfinite()).sum())
    kind = "NaN" if values.isnan().any() else "infinite"
    return kind if values.numel() == 1 else f"{kind} at {count} of {values.numel()} entries"


def _first(names: list[str]) -> str:
    rest = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0]!r}{rest}"
