"""Checks of the arguments of ``fit``, before anything is trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ppl_vae.errors import describe, quoted, reason
from ppl_vae.estimators.scheduled import wrappers
from ppl_vae.spec import ARGUMENTS

M = TypeVar("M")


def check_kind(owner: str, name: str, value: object, kind: type, example: str) -> None:
    """Raise TypeError unless an argument is an instance of a class."""
    if not isinstance(value, kind):
        raise TypeError(f"{owner}: {name} must be {example}, got {_kind(value)}")


def checked_estimator(owner: str, estimator: ELBO) -> ELBO:
    """Return an estimator; raise TypeError unless it is an ELBO with a differentiable loss."""
    if not isinstance(estimator, ELBO):
        example = "a pyro.infer.ELBO, such as Trace_ELBO()"
        raise TypeError(f"{owner}: estimator must be {example}, got {describe(estimator)}")
    around = wrappers(estimator)
    bound = around[-1].estimator if around else estimator
    if not hasattr(bound, "differentiable_loss"):
        raise TypeError(
            f"{owner}: estimator must have a differentiable_loss, and {type(bound).__name__} has "
            f"none. Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO and ppl_vae.estimators have "
            f"one; ImportanceWeightedELBO(K, alpha=a) is the Rényi bound, and gradient='wake' is "
            f"reweighted wake-sleep"
        )
    return estimator


def made_optimizer(
    make: Callable[[list[nn.Parameter]], Optimizer] | None, parameters: list[nn.Parameter]
) -> Optimizer:
    """Return the optimiser of some parameters; Adam at a rate of 1e-3 where none is given."""
    if not parameters:
        raise ValueError(
            "fit: pair must have a parameter that requires a gradient, and has none; call "
            "pair.requires_grad_(True)"
        )
    if make is None:
        made: Optimizer = default("optimizer", torch.optim, parameters)
        return made
    how = "give a function that makes one, such as functools.partial(torch.optim.Adam, lr=1e-3)"
    if isinstance(make, PyroOptim):
        raise TypeError(f"fit: optimizer must be of torch.optim, got one of pyro.optim; {how}")
    return _made("optimizer", make, parameters, Optimizer, "closure", how)


def made_schedule(
    make: Callable[[Optimizer], LRScheduler] | None, optimizer: Optimizer
) -> LRScheduler | None:
    """Return the schedule of an optimiser's learning rate."""
    if make is None:
        return None
    how = (
        "give a function of the optimiser that makes one, such as "
        "functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1000)"
    )
    made = _made("lr_schedule", make, optimizer, LRScheduler, "metric", how)
    if getattr(made, "optimizer", optimizer) is not optimizer:
        raise ValueError(
            f"fit: lr_schedule must be of the optimiser that it is given, got one of another "
            f"({type(made).__name__}); {how}"
        )
    return made


def default(argument: str, module: object, *first: object) -> Any:
    """Return what ``fit`` uses if an argument is not given: an object of a class of a module."""
    options = {**ARGUMENTS[argument].default}
    return getattr(module, options.pop("class"))(*first, **options)


def _made(
    name: str, make: Callable[[Any], M], of: object, kind: type[M], lacking: str, how: str
) -> M:
    """Return what a function makes; raise an error that names the argument if it fails."""
    if not callable(make):
        what = "optimiser" if isinstance(of, Optimizer) else "parameters"
        raise TypeError(f"fit: {name} must be a function of the {what}, got {_kind(make)}; {how}")
    try:
        made = make(of)
    except (IndexError, TypeError, ValueError) as error:
        given = make.keywords if isinstance(make, partial) else {}
        options = ", ".join(f"{k}={quoted(v, 60)}" for k, v in given.items())
        raise (TypeError if isinstance(error, TypeError) else ValueError)(
            f"fit: {name} {_kind(make)} cannot be made{options and f' with {options}'}: "
            f"{reason(error)}; {how}"
        ) from error
    if not isinstance(made, kind):
        raise TypeError(
            f"fit: {name} must return a {kind.__module__}.{kind.__name__}, and {_kind(make)} "
            f"returned {_kind(made)}; {how}"
        )
    if _needs_argument(made.step):  # type: ignore[attr-defined]
        raise TypeError(
            f"fit: {name} must step without arguments, and {_kind(made)} needs a {lacking}; {how}"
        )
    return made


def _needs_argument(step: Callable) -> bool:
    parameters = inspect.signature(step).parameters.values()
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.default is p.empty and p.kind in named for p in parameters)


def _kind(value: object) -> str:
    """Describe a value, an object by its class alone: the repr of an optimiser is long."""
    if isinstance(value, partial):
        value = value.func
    plain = value is None or isinstance(value, (bool, int, float, str))
    return describe(value) if plain else getattr(value, "__qualname__", type(value).__qualname__)
