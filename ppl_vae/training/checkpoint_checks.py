"""Checks of a checkpoint's contents before anything is loaded.

A checkpoint may come from anybody, and loading it unchecked may do more than fail: fused optimisers
index the memory of their state by the shape of the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from ppl_vae.errors import describe, quoted, reason
from ppl_vae.io.errors import DamagedError, MismatchError
from ppl_vae.io.tensors import check_compatible
from ppl_vae.random_state import check_random_state

_MAX_NAME = 100
_TYPES: dict[str, type] = {
    "declaration": dict,
    "source": dict,
    "optimizer": dict,
    "best": dict,
    "history": dict,
    "validation": dict,
    "since_log": list,
    "random": list,
}


def check_entries(state: Mapping[str, Any], step: int, folder: Path) -> None:
    """Raise DamagedError unless the entries are valid that do not depend on the training."""
    for name, kind in _TYPES.items():
        if not isinstance(state.get(name), kind):
            raise DamagedError(f"{folder}: {name} is missing, got {describe(state.get(name))}")
    if not all(type(n) is type(w) is str for n, w in state["declaration"].items()):
        raise DamagedError(f"{folder}: declaration must map strings to strings")
    if type(state.get("step")) is not int or state["step"] != step:
        raise DamagedError(f"{folder}: its state is of step {quoted(state.get('step'))}")
    if set(state["source"]) != {"epoch", "batches"} or not _is_count(state["source"]["epoch"]):
        raise DamagedError(f"{folder}: source must have the number of an epoch and batches")
    best = state["best"]
    if (
        set(best) != {"loss", "step", "since"}
        or type(best["loss"]) not in (int, float)
        or not all(type(best[n]) is int for n in ("step", "since"))
        or not (-1 <= best["step"] <= step and best["since"] >= 0)
    ):
        raise DamagedError(f"{folder}: best cannot be {quoted(best)}")
    for name in ("history", "validation"):
        _check_table(state[name], f"{folder}: {name}")
    rows = state["since_log"]
    if not all(isinstance(r, Tensor) and r.ndim == 1 and r.is_floating_point() for r in rows) or (
        len({(r.shape, r.dtype) for r in rows}) > 1
    ):
        raise DamagedError(f"{folder}: since_log must have vectors of losses, all of one length")
    for generators in state["random"]:
        try:
            check_random_state(generators)
        except ValueError as error:
            raise DamagedError(f"{folder}: random: {error}") from error


def check_weights(tensors: Mapping[str, Tensor], module: nn.Module, source: str) -> None:
    """Raise MismatchError if weights are not a module's, DamagedError if they are not finite."""
    check_compatible(module, tensors, source)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not tensors[name].isfinite().all():
            raise DamagedError(f"{source}: {quoted(name)} is not finite")


def check_schedule(state: Any, schedule: LRScheduler | None, folder: Path) -> None:
    """Raise an error unless a state can be a schedule's: ``load_state_dict`` accepts anything."""
    own = None if schedule is None else schedule.state_dict()
    if (state is None) != (own is None):
        raise MismatchError(
            f"{folder}: lr_schedule is {quoted(state)} in the checkpoint, got "
            f"{type(schedule).__name__}; give the same schedule"
        )
    if own is None:
        return
    if not isinstance(state, Mapping):
        raise DamagedError(f"{folder}: lr_schedule must be a mapping, got {describe(state)}")
    if type(schedule).__module__.startswith("torch."):
        check_structure(state, own, f"{folder}: lr_schedule")
        return
    methods = [name for name in state if type(name) is not str or hasattr(type(schedule), name)]
    if methods:
        raise DamagedError(f"{folder}: lr_schedule: unexpected key {quoted(methods[0])}")


def check_structure(value: Any, expected: Any, path: str) -> None:
    """Raise DamagedError unless a value has the structure, strings and flags of another.

    Numbers may differ, but must be finite. The message starts with the path.
    """
    if isinstance(expected, Mapping):
        if not isinstance(value, Mapping) or set(value) != set(expected):
            raise DamagedError(f"{path} must have {_keys(expected)}, got {_keys(value)}")
        for key, item in expected.items():
            check_structure(value[key], item, f"{path}[{quoted(key)}]")
    elif isinstance(expected, (list, tuple)):
        if not isinstance(value, (list, tuple)) or len(value) != len(expected):
            raise DamagedError(f"{path} must be {len(expected)} values, got {describe(value)}")
        for i, (item, own) in enumerate(zip(value, expected, strict=True)):
            check_structure(item, own, f"{path}[{i}]")
    elif isinstance(expected, Tensor):
        same = isinstance(value, Tensor) and (value.shape, value.dtype) == (
            expected.shape,
            expected.dtype,
        )
        if not same or not value.isfinite().all():
            raise DamagedError(
                f"{path} must be {describe(expected)}, finite, got {describe(value)}"
            )
    elif type(expected) in (int, float):
        if not _is_number(value):
            raise DamagedError(f"{path} must be a finite number, got {describe(value)}")
    elif type(value) is not type(expected) or value != expected:
        raise DamagedError(f"{path} must be {quoted(expected)}, got {describe(value)}")


def _check_table(columns: Mapping[Any, Any], path: str) -> None:
    for name, values in columns.items():
        if (
            type(name) is not str
            or not 0 < len(name) <= _MAX_NAME
            or not name.isprintable()
            or set(name) & set(',"')
        ):
            raise DamagedError(f"{path}: {quoted(name)} cannot be the name of a column")
        if not isinstance(values, Tensor) or values.ndim != 1 or values.dtype != torch.float64:
            raise DamagedError(f"{path}: {reason(name)} must be numbers, got {describe(values)}")
    if len({len(values) for values in columns.values()}) > 1:
        raise DamagedError(f"{path} has columns of different lengths")
    steps = columns.get("step", torch.empty(0))
    if columns and (not steps.isfinite().all() or len(steps) != len(next(iter(columns.values())))):
        raise DamagedError(f"{path} must have a finite step for each row")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: object) -> bool:
    if type(value) is int:
        return abs(value) < 2**63
    return type(value) is float and math.isfinite(value)


def _keys(value: object) -> str:
    if not isinstance(value, (Mapping, Sequence)):
        return describe(value)
    return f"the keys {quoted(list(value))}"
