"""Where a number that is not finite came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn


class NotFiniteError(ArithmeticError):
    """The loss, or a gradient, was infinite or NaN; weights and buffers are those of before.

    Args:
        step: at which step, from 0.
        origin: where it began, in words.
        saved: where the last good checkpoint is, in words; empty where there are none.
        owner: the function that trains.
    """

    def __init__(self, step: int, origin: str, saved: str = "", owner: str = "fit") -> None:
        where, clipping = (f" {saved}.", "clip_norm=, ") if saved else ("", "")
        super().__init__(
            f"{owner}: step {step}: {origin}. The step was not taken: the pair has the weights of "
            f"before.{where} A lower learning rate, {clipping}or a greater least scale of "
            f"the likelihood or posterior, such as min_scale=0.01, often helps"
        )
        self.step = step
        self.origin = origin
        self.saved = saved


FINITE = "loss and gradients are finite, and their norm overflows"
MADE_BY_ESTIMATOR = "the estimator made it of finite densities"
"""What :func:`origin` says where it finds nothing."""


def origin(module: nn.Module, rerun: Callable[[], Tensor], loss: Tensor) -> str:
    """Say where the first number that is not finite appears.

    Args:
        module: holds the programs.
        rerun: runs the step's forward pass again, with the same random numbers.
        loss: of the step, in this process.
    """
    spoilt = [name for name, p in module.named_parameters() if not p.isfinite().all()]
    if spoilt:
        return f"parameter {_some(spoilt)} is not finite before the step"
    if not loss.isfinite().all():
        found, _ = _watched(module, rerun, backwards=False)
        where = found[0] if found else MADE_BY_ESTIMATOR
        return f"the loss is {_name(loss)}: {where}"
    found, bad = _watched(module, rerun, backwards=True)
    if bad:
        way = f", seen going backwards first at {found[0]}" if found else ""
        return f"the loss is finite, and the gradient of parameter {_some(bad)} is not{way}"
    return FINITE


def _watched(
    module: nn.Module, rerun: Callable[[], Tensor], *, backwards: bool
) -> tuple[list[str], list[str]]:
    """Run a step again; return what is not finite on the way, and the names of parameters."""
    watch, bad = _Watch(backwards), []
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    with (
        _modules_watched(module, watch),
        watch,
        pyro.validation_enabled(False),
        suppress(Exception),  # where it fails, what was found on the way explains it
    ):
        loss = rerun()
        if backwards:
            slopes = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
            found = zip(parameters, slopes, strict=True)
            bad = [name for name, slope in found if slope is not None and not _finite(slope)]
    return watch.found, bad


class _Watch(Messenger):
    """Notes the sample sites whose value or log-density is not finite, in order.

    Args:
        backwards: note gradients instead, in the order in which they are computed.
    """

    def __init__(self, backwards: bool) -> None:
        super().__init__()
        self.backwards = backwards
        self.found: list[str] = []

    def look(self, what: str, value: Tensor, how: str = "") -> None:
        """Note a value that is not finite, or one whose gradient will not be."""
        if not self.backwards:
            if not _finite(value):
                self.found.append(f"{what} is {_name(value)}{how}")
        elif value.requires_grad:
            value.register_hook(partial(self._look_back, what))

    def _look_back(self, what: str, slope: Tensor) -> None:
        if not _finite(slope):
            self.found.append(what)

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg) or not isinstance(msg["value"], Tensor):
            return
        name, value, fn = msg["name"], msg["value"], msg["fn"]
        self.look(f"site {name!r}: its value", value, f" (drawn from {_kind(fn)})")
        if not self.backwards and _finite(value):
            what = "observed" if msg["is_observed"] else "latent"
            density = f"site {name!r} ({what}): its log-density under {_kind(fn)}"
            self.look(density, fn.log_prob(value), _ranges(fn))


@contextmanager
def _modules_watched(module: nn.Module, watch: _Watch) -> Iterator[None]:
    """Note the modules whose output is not finite, the innermost first."""

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor):
                watch.look(f"the output of module {name!r}", output)

        return hook

    with ExitStack() as stack:
        for name, part in module.named_modules():
            if name:
                handle = part.register_forward_hook(note(name))
                stack.callback(handle.remove)
        yield


def _finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())


def _base(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _kind(fn: Any) -> str:
    return type(_base(fn)).__name__


def _ranges(fn: Any) -> str:
    """Say from where to where the parameters of a distribution go: a scale of 0, a huge mean."""
    base = _base(fn)
    values = {n: vars(base).get(n) for n in getattr(base, "arg_constraints", {})}
    told = [
        f"{name} from {value.min():.3g} to {value.max():.3g}"
        for name, value in values.items()
        if isinstance(value, Tensor) and value.numel()
    ]
    return f" ({', '.join(told)})" if told else ""


def _name(values: Tensor) -> str:
    count = int((~values.isfinite()).sum())
    what = "NaN" if values.isnan().any() else "infinite"
    return what if values.numel() == 1 else f"{what} at {count} of {values.numel()} entries"


def _some(names: list[str]) -> str:
    rest = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0]!r}{rest}"
