"""Where a number that is not finite came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn


class NotFiniteError(ArithmeticError):
    """The loss, or a gradient, was infinite or NaN; the weights are those of the step before.

    Args:
        step: at which step, from 0.
        origin: where it began, in words.
        saved: where the last good checkpoint is, in words.
    """

    def __init__(self, step: int, origin: str, saved: str) -> None:
        super().__init__(
            f"fit: step {step}: {origin}. The step was not taken: the pair has the weights of "
            f"before. {saved}. A lower learning rate, clip_norm=, or a bound on the scale of a "
            f"likelihood often helps"
        )
        self.step = step
        self.origin = origin
        self.saved = saved


def origin(module: nn.Module, rerun: Callable[[], object], loss: Tensor) -> str:
    """Say where the first number that is not finite appears.

    Args:
        module: holds the programs, with the gradients of the step.
        rerun: runs the step's forward pass again, with the same random numbers.
        loss: of the step.
    """
    spoilt = [name for name, p in module.named_parameters() if not p.isfinite().all()]
    if spoilt:
        return f"parameter {_some(spoilt)} is not finite before the step"
    if not loss.isfinite().all():
        watch = _Watch()
        with _modules_watched(module, watch), watch, torch.no_grad():
            try:
                with pyro.validation_enabled(False):
                    rerun()
            except Exception as error:
                # The first finding explains it; without one the error itself does.
                watch.found.append(f"{type(error).__name__}: {error}")
        where = watch.found[0] if watch.found else "the estimator made it of finite densities"
        return f"the loss is {_name(loss)}: {where}"
    gradients = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    bad = [name for name, g in gradients.items() if not g.isfinite().all()]
    if bad:
        return f"the loss is finite, and the gradient is not, first of parameter {_some(bad)}"
    return "the gradients are finite, and their norm is too large to be one"


class _Watch(Messenger):
    """Notes the sample sites whose value or log-density is not finite, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg) or not isinstance(msg["value"], Tensor):
            return
        name, value, fn = msg["name"], msg["value"], msg["fn"]
        kind = type(fn).__name__
        if not value.isfinite().all():
            self.found.append(f"site {name!r}: its value is {_name(value)} (drawn from {kind})")
            return
        log_prob = fn.log_prob(value)
        if not log_prob.isfinite().all():
            what = "observed" if msg["is_observed"] else "latent"
            self.found.append(
                f"site {name!r} ({what}): its log-density under {kind} is {_name(log_prob)}"
            )


@contextmanager
def _modules_watched(module: nn.Module, watch: _Watch) -> Iterator[None]:
    """Note the modules whose output is not finite, the innermost first."""

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                watch.found.append(f"the output of module {name!r} is {_name(output)}")

        return hook

    with ExitStack() as stack:
        for name, part in module.named_modules():
            if name:
                handle = part.register_forward_hook(note(name))
                stack.callback(handle.remove)
        yield


def _name(values: Tensor) -> str:
    count = int((~values.isfinite()).sum())
    what = "NaN" if values.isnan().any() else "infinite"
    return what if values.numel() == 1 else f"{what} at {count} of {values.numel()} entries"


def _some(names: list[str]) -> str:
    rest = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0]!r}{rest}"
