"""What ``fit`` is given, looked at before anything is trained."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping

from pyro.infer import ELBO
from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ppl_vae.errors import describe, positive_int
from ppl_vae.estimators import ImportanceWeightedELBO, KLWeighted


def check_numbers(
    counts: Mapping[str, object], seed: object, clip_norm: float | int | None
) -> None:
    """Raise TypeError or ValueError unless the numbers make sense, those that are not None."""
    counts = {name: value for name, value in counts.items() if value is not None}
    for name, value in counts.items():
        positive_int("fit", name, value)
    if ("steps" in counts) == ("epochs" in counts):
        raise ValueError("fit: give either steps= or epochs=, how long to train")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"fit: seed must be an integer, got {describe(seed)}")
    if clip_norm is None:
        return
    if isinstance(clip_norm, bool) or not isinstance(clip_norm, (int, float)):
        raise TypeError(f"fit: clip_norm must be a number, got {describe(clip_norm)}")
    if not 0 < clip_norm < math.inf:
        raise ValueError(
            f"fit: clip_norm must be finite and above 0, got {describe(clip_norm)}; leave it out "
            f"for no clipping"
        )


def checked_estimator(estimator: ELBO | None) -> ELBO:
    """Return the estimator, the ELBO where none is given.

    Raises:
        TypeError: if it is none, or one that cannot be differentiated from outside.
    """
    if estimator is None:
        return ImportanceWeightedELBO(1)
    if not isinstance(estimator, ELBO):
        raise TypeError(
            f"fit: estimator must be an object of pyro.infer.ELBO, such as Trace_ELBO(), got "
            f"{describe(estimator)}"
        )
    bound = estimator.estimator if isinstance(estimator, KLWeighted) else estimator
    if not hasattr(bound, "differentiable_loss"):
        raise TypeError(
            f"fit: estimator must have a differentiable_loss, and {type(bound).__name__} has none: "
            f"it differentiates by itself, through Pyro's parameter store. Most pyro.infer "
            f"estimators have one (Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO), and so have "
            f"those of ppl_vae.estimators: ImportanceWeightedELBO(K, alpha=a) is the Rényi bound, "
            f"and gradient='wake' is reweighted wake-sleep"
        )
    return estimator


def made_optimiser(
    make: Callable[[list[nn.Parameter]], Optimizer] | None, parameters: list[nn.Parameter]
) -> Optimizer:
    """Return the optimiser of some parameters; Adam at a rate of 1e-3 where none is given.

    Raises:
        TypeError: if no optimiser is made, or one that takes several looks at each step.
        ValueError: if there is nothing to train.
    """
    if not parameters:
        raise ValueError(
            "fit: pair must have a parameter to train, and it has none that requires a gradient; "
            "switch them on with pair.requires_grad_(True)"
        )
    if make is None:
        return Adam(parameters, lr=1e-3, fused=True)
    how = "give what makes one, such as functools.partial(torch.optim.Adam, lr=1e-3)"
    if not callable(make):
        raise TypeError(
            f"fit: optimiser must be a function of the parameters, got {_kind(make)}; {how}"
        )
    optimiser = make(parameters)
    if not isinstance(optimiser, Optimizer):
        raise TypeError(
            f"fit: optimiser must return a torch.optim.Optimizer, and {_kind(make)} returned "
            f"{_kind(optimiser)}; {how}"
        )
    if _needs(optimiser.step):
        raise TypeError(
            f"fit: optimiser must take a step from one gradient, and {_kind(optimiser)} needs a "
            f"closure, to look several times; {how}"
        )
    return optimiser


def made_schedule(
    make: Callable[[Optimizer], LRScheduler] | None, optimiser: Optimizer
) -> LRScheduler | None:
    """Return the schedule of an optimiser's learning rate.

    Raises:
        TypeError: if no schedule is made, or one that waits for a metric.
    """
    if make is None:
        return None
    how = (
        "give what makes one of an optimiser, such as "
        "functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1000)"
    )
    if not callable(make):
        raise TypeError(
            f"fit: lr_schedule must be a function of the optimiser, got {_kind(make)}; {how}"
        )
    schedule = make(optimiser)
    if not isinstance(schedule, LRScheduler):
        raise TypeError(
            f"fit: lr_schedule must return a schedule of torch.optim.lr_scheduler, and "
            f"{_kind(make)} returned {_kind(schedule)}; {how}"
        )
    if _needs(schedule.step):
        raise TypeError(
            f"fit: lr_schedule must follow the step alone, and {_kind(schedule)} waits for a "
            f"metric; {how}"
        )
    return schedule


def _needs(step: Callable) -> bool:
    """Tell whether a step cannot be taken without an argument."""
    parameters = inspect.signature(step).parameters.values()
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.default is p.empty and p.kind in named for p in parameters)


def _kind(value: object) -> str:
    """Name a value, of an object its class alone: optimisers print all they hold."""
    plain = value is None or isinstance(value, (bool, int, float, str))
    return describe(value) if plain else getattr(value, "__qualname__", type(value).__qualname__)
