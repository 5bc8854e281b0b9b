"""Checks of the arguments of ``fit``, before anything is trained."""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ppl_vae.errors import describe, path_of, quoted, reason
from ppl_vae.estimators import KLWeighted
from ppl_vae.spec import ARGUMENTS


def checked_folder(out: object, resume: bool) -> Path | None:
    """Return the folder of the checkpoints, or None; raise an error if it cannot be one."""
    if out is None:
        if resume:
            raise ValueError("fit: resume=True needs the folder of the checkpoints; give out=")
        return None
    folder = path_of("fit", "out", out)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            errno.ENOTDIR,
            "fit: out must be a folder, and is a file",
            str(folder),
        )
    return folder


def check_kind(owner: str, name: str, value: object, kind: type, example: str) -> None:
    """Raise TypeError unless an argument is an instance of a class."""
    if not isinstance(value, kind):
        raise TypeError(f"{owner}: {name} must be {example}, got {_kind(value)}")


def checked_estimator(estimator: ELBO, owner: str = "fit") -> ELBO:
    """Return the estimator.

    Raises:
        TypeError: if it is not an ELBO, or has no ``differentiable_loss``.
    """
    if not isinstance(estimator, ELBO):
        raise TypeError(
            f"{owner}: estimator must be a pyro.infer.ELBO, such as Trace_ELBO(), got "
            f"{describe(estimator)}"
        )
    bound = estimator.estimator if isinstance(estimator, KLWeighted) else estimator
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
    """Return the optimiser of some parameters; Adam at a rate of 1e-3 where none is given.

    Raises:
        TypeError: if no optimiser is made, or one that needs a closure.
        ValueError: if there is nothing to train.
    """
    if not parameters:
        raise ValueError(
            "fit: pair must have a parameter to train, and it has none that requires a gradient; "
            "switch them on with pair.requires_grad_(True)"
        )
    if make is None:
        made: Optimizer = default("optimizer", torch.optim, parameters)
        return made
    how = "give a function that makes one, such as functools.partial(torch.optim.Adam, lr=1e-3)"
    if not callable(make):
        raise TypeError(
            f"fit: optimizer must be a function of the parameters, got {_kind(make)}; {how}"
        )
    if isinstance(make, PyroOptim):
        raise TypeError(f"fit: optimizer must be of torch.optim, got one of pyro.optim; {how}")
    optimizer = _made("optimizer", make, parameters, how)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"fit: optimizer must return a torch.optim.Optimizer, and {_kind(make)} returned "
            f"{_kind(optimizer)}; {how}"
        )
    if _needs_argument(optimizer.step):
        raise TypeError(
            f"fit: optimizer must take a step from one gradient, and {_kind(optimizer)} needs a "
            f"closure; {how}"
        )
    return optimizer


def default(argument: str, module: object, *first: object) -> Any:
    """Return what ``fit`` uses if an argument is not given: an object of a class of a module."""
    options = {**ARGUMENTS[argument].default}
    return getattr(module, options.pop("class"))(*first, **options)


def made_schedule(
    make: Callable[[Optimizer], LRScheduler] | None, optimizer: Optimizer
) -> LRScheduler | None:
    """Return the schedule of an optimiser's learning rate.

    Raises:
        TypeError: if no schedule is made, or one that needs a metric.
    """
    if make is None:
        return None
    how = (
        "give a function of the optimiser that makes one, such as "
        "functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1000)"
    )
    if not callable(make):
        raise TypeError(
            f"fit: lr_schedule must be a function of the optimiser, got {_kind(make)}; {how}"
        )
    schedule = _made("lr_schedule", make, optimizer, how)
    if not isinstance(schedule, LRScheduler):
        raise TypeError(
            f"fit: lr_schedule must return a schedule of torch.optim.lr_scheduler, and "
            f"{_kind(make)} returned {_kind(schedule)}; {how}"
        )
    if _needs_argument(schedule.step):
        raise TypeError(
            f"fit: lr_schedule must follow the step alone, and {_kind(schedule)} needs a "
            f"metric; {how}"
        )
    return schedule


def _made(name: str, make: Callable, of: object, how: str) -> object:
    """Call a function; raise an error that names the argument if it fails."""
    try:
        return make(of)
    except (IndexError, TypeError, ValueError) as error:
        kind: type[Exception] = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"fit: {name} {_kind(make)} cannot be made{_keywords(make)}: {reason(error)}; {how}"
        ) from error


def _keywords(make: Callable) -> str:
    """Write the arguments that a partial function holds."""
    given = make.keywords if isinstance(make, partial) else {}
    return f" with {', '.join(f'{k}={quoted(v, 60)}' for k, v in given.items())}" if given else ""


def _needs_argument(step: Callable) -> bool:
    """Tell whether a function needs an argument."""
    parameters = inspect.signature(step).parameters.values()
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.default is p.empty and p.kind in named for p in parameters)


def _kind(value: object) -> str:
    """Describe a value, an object by its class alone: the repr of an optimiser is long."""
    if isinstance(value, partial):
        value = value.func
    plain = value is None or isinstance(value, (bool, int, float, str))
    return describe(value) if plain else getattr(value, "__qualname__", type(value).__qualname__)
