"""What changes while training, from plain data: β, temperature, particles; lengths in steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ppl_vae.errors import reason
from ppl_vae.estimators import cyclical_warm_up, linear_warm_up
from ppl_vae.io.config import ConfigError
from ppl_vae.io.config.signature import refuse_missing, refuse_unknown
from ppl_vae.io.errors import brief, suggestion

if TYPE_CHECKING:
    from ppl_vae.training import EarlyStopping, PiecewiseConstant

WARM_UPS: dict[str, tuple[Callable[..., Any], str]] = {
    "linear_warm_up": (linear_warm_up, "steps"),
    "cyclical_warm_up": (cyclical_warm_up, "period"),
}
"""The schedules of β and the temperature, and the argument of each that is a length."""
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


def in_steps(length: Any, total: int, path: str, entry: str = "") -> Any:
    """Return a length in steps: a float is a fraction of the training.

    Of a list, each is a length; of a mapping, the ``entry``.
    """
    if isinstance(length, list):
        return [in_steps(one, total, f"{path}[{i}]") for i, one in enumerate(length)]
    if isinstance(length, Mapping) and entry in length:
        return {**length, entry: in_steps(length[entry], total, f"{path}.{entry}")}
    if not isinstance(length, float):
        return length
    if not 0 < length <= 1:
        raise ConfigError(
            f"{path} must be a number of steps, or a fraction of the training above 0 and at most "
            f"1, such as 0.1, got {brief(length)}"
        )
    return max(1, round(length * total))


def schedule_in_steps(given: Any, total: int, path: str) -> Any:
    """Return β or the temperature with the length of its schedule, if any, in steps."""
    if not isinstance(given, Mapping):
        return given
    lengths = {name: argument for name, (_, argument) in WARM_UPS.items()}
    return {
        name: in_steps(arguments, total, f"{path}.{name}", lengths.get(name, ""))
        for name, arguments in given.items()
    }


def schedule(given: Any, path: str) -> Any:
    """Return β or the temperature as ``fit`` takes it: a number, or a function of the step."""
    if not isinstance(given, dict):
        return given
    name = next(iter(given), "")
    if len(given) != 1 or name not in WARM_UPS:
        raise ConfigError(
            f"{path} must be a number or one schedule, got {brief(given)}; "
            f"{suggestion(name, WARM_UPS)}"
        )
    make, length = WARM_UPS[name]
    arguments = given[name] if isinstance(given[name], dict) else {length: given[name]}
    return _made(make, arguments, f"{path}.{name}")


def particles(given: Any) -> PiecewiseConstant | None:
    """Return the number of particles as a function of the step, or None."""
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
    """Return when to stop early, or None."""
    from ppl_vae.training import EarlyStopping  # not above: slow to import

    return None if given is None else _made(EarlyStopping, given, "fit.stopping")


def _made(make: Callable[..., Any], arguments: Mapping[str, Any], path: str) -> Any:
    known = inspect.signature(make).parameters
    required = [name for name, parameter in known.items() if parameter.default is parameter.empty]
    refuse_unknown(make.__name__, arguments, known, path)
    refuse_missing(make.__name__, arguments, required, path)
    try:
        return make(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {reason(error)}") from error
