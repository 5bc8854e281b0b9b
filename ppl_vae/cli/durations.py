"""How long things take in a training: numbers of steps, or fractions of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppl_vae.io.config import ConfigError
from ppl_vae.io.errors import told

EVERY = {"validate_every": 1000, "checkpoint_every": 1000, "log_every": 50}
"""Steps between them where nothing is given, and a training is long enough for ten."""
WARM_UPS = {"linear_warm_up": "steps", "cyclical_warm_up": "period"}
"""Per schedule of β the argument that is a length."""
SCHEDULES = {
    "ConstantLR": "total_iters",
    "CosineAnnealingLR": "T_max",
    "CosineAnnealingWarmRestarts": "T_0",
    "LinearLR": "total_iters",
    "MultiStepLR": "milestones",
    "OneCycleLR": "total_steps",
    "PolynomialLR": "total_iters",
    "StepLR": "step_size",
}
"""Likewise per schedule of the learning rate."""


def in_steps(length: Any, total: int, path: str) -> Any:
    """Return a length in steps: a float is that fraction of the training; of a list, each.

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
            f"1, such as 0.1, got {told(length)}"
        )
    return max(1, round(length * total))


def beta_in_steps(beta: Any, total: int) -> Any:
    """Return β with the length of its schedule, if it has one, in steps."""
    if not isinstance(beta, Mapping):
        return beta
    found: dict[str, Any] = {}
    for name, given in beta.items():
        path, argument = f"fit.beta.{name}", WARM_UPS.get(name, "")
        if isinstance(given, Mapping) and argument in given:
            length = in_steps(given[argument], total, f"{path}.{argument}")
            found[name] = {**given, argument: length}
        else:
            found[name] = given if isinstance(given, Mapping) else in_steps(given, total, path)
    return found
