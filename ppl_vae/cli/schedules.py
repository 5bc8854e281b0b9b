"""What changes while training, from plain data: β, particles, early stopping; lengths in steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from ppl_vae.errors import quoted, reason
from ppl_vae.estimators import cyclical_warm_up, linear_warm_up
from ppl_vae.io.config import ConfigError
from ppl_vae.io.errors import brief, suggestion

if TYPE_CHECKING:
    from ppl_vae.training import EarlyStopping, PiecewiseConstant

WARM_UPS: dict[str, tuple[Callable[..., Any], str]] = {
    "linear_warm_up": (linear_warm_up, "steps"),
    "cyclical_warm_up": (cyclical_warm_up, "period"),
}
"""The schedules of β, and the argument of each that is a length."""
LENGTHS = {
    "ConstantLR": "total_iters",
    "CosineAnnealingLR": "T_max",
    "CosineAnnealingWarmRestarts": "T_0",
    "LinearLR": "total_iters",
    "MultiStepLR": "milestones",
    "OneCycleLR": "total_steps",
    "PolynomialLR": "total_iters",
    "StepLR": "step_size",
}
"""The argument that is a length, or a list of them, of schedules of the learning rate."""


def check_names(
    owner: str, given: Collection[str], known: Collection[str], required: list[str], path: str
) -> None:
    """Raise ConfigError unless each argument given is known, and each required one is given."""
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{path}.{reason(str(name), 60)}: {owner} has no {quoted(name)}; "
                f"{suggestion(str(name), known)}"
            )
    for name in required:
        if name not in given:
            raise ConfigError(f"{path}.{name} is missing: {owner} needs it")


def in_steps(length: Any, total: int, path: str) -> Any:
    """Return a length in steps: a float is a fraction of the training; of a list, each.

    Raises:
        ConfigError: if a fraction is not above 0, or above 1.
    """
    if isinstance(length, list):
        return [in_steps(one, total, f"{path}[{i}]") for i, one in enumerate(length)]
    if not isinstance(length, float):
        return length
    if not 0 < length <= 1:
        raise ConfigError(
            f"{path} must be a number of steps, or a fraction of the training above 0 and at most "
            f"1, such as 0.1, got {brief(length)}"
        )
    return max(1, round(length * total))


def beta_in_steps(beta: Any, total: int) -> Any:
    """Return β with the length of its schedule, if any, in steps."""
    if not isinstance(beta, Mapping):
        return beta
    found: dict[str, Any] = {}
    for name, given in beta.items():
        path, argument = f"fit.beta.{name}", WARM_UPS[name][1] if name in WARM_UPS else ""
        if isinstance(given, Mapping) and argument in given:
            length = in_steps(given[argument], total, f"{path}.{argument}")
            found[name] = {**given, argument: length}
        else:
            found[name] = given if isinstance(given, Mapping) else in_steps(given, total, path)
    return found


def particles_in_steps(particles: Any, total: int) -> Any:
    """Return the schedule of the number of particles with its milestones in steps."""
    if not isinstance(particles, Mapping) or "milestones" not in particles:
        return particles
    path = "fit.num_particles.milestones"
    return {**particles, "milestones": in_steps(particles["milestones"], total, path)}


def beta(given: Any) -> Any:
    """Return β as ``fit`` takes it: a number, or a function of the step.

    Raises:
        ConfigError: if there is no such schedule, or its arguments are wrong.
    """
    if not isinstance(given, dict):
        return given
    name = next(iter(given), "")
    if len(given) != 1 or name not in WARM_UPS:
        raise ConfigError(
            f"fit.beta must be a number or one schedule, got {brief(given)}; "
            f"{suggestion(name, WARM_UPS)}"
        )
    schedule, length = WARM_UPS[name]
    arguments = given[name] if isinstance(given[name], dict) else {length: given[name]}
    return _made(schedule, arguments, f"fit.beta.{name}")


def particles(given: Any) -> PiecewiseConstant | None:
    """Return the number of particles as a function of the step, or None.

    Raises:
        ConfigError: if its arguments are wrong.
    """
    from ppl_vae.training import PiecewiseConstant  # not above: slow to import

    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"fit.num_particles must be a schedule, {{milestones: [M, ...], values: [K, ...]}}, "
            f"got {brief(given)}; a constant number is --estimator.num_particles"
        )
    return _made(PiecewiseConstant, given, "fit.num_particles")


def stopping(given: dict[str, Any] | None) -> EarlyStopping | None:
    """Return when to stop early, or None.

    Raises:
        ConfigError: if its arguments are wrong.
    """
    from ppl_vae.training import EarlyStopping  # not above: slow to import

    return None if given is None else _made(EarlyStopping, given, "fit.stopping")


def _made(make: Callable[..., Any], arguments: Mapping[str, Any], path: str) -> Any:
    known = inspect.signature(make).parameters
    required = [name for name, parameter in known.items() if parameter.default is parameter.empty]
    check_names(make.__name__, arguments, known, required, path)
    try:
        return make(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {reason(error)}") from error
