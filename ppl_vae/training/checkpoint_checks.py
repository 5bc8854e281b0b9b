"""What a checkpoint keeps of a training besides weights, checked before any of it is used.

A file may be by anybody, and what is used as it comes may do more than fail: fused optimisers read
and write memory by the shape that a parameter has, whatever its state has.
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
from ppl_vae.io.tensors import check_suits
from ppl_vae.random_state import check_random_state

_LONGEST = 100  # characters of a column's name


def check_entries(state: Mapping[str, Any], step: int, folder: Path) -> None:
    """Raise DamagedError unless the entries that need no look at the training are as they must be.

    Args:
        state: of a checkpoint.
        step: of which it is, by the name of its folder.
        folder: where it is, for messages.
    """
    for name, kind in _KINDS.items():
        if not isinstance(state.get(name), kind):
            raise DamagedError(f"{folder}: {name} is missing, got {describe(state.get(name))}")
    if not all(type(n) is type(w) is str for n, w in state["declaration"].items()):
        raise DamagedError(f"{folder}: declaration must hold words by name")
    if type(state.get("step")) is not int or state["step"] != step:
        raise DamagedError(f"{folder}: it is of step {quoted(state.get('step'))}, by its state")
    if set(state["source"]) != {"epoch", "batches"} or not _is_count(state["source"]["epoch"]):
        raise DamagedError(f"{folder}: source must have the number of an epoch and batches")
    best = state["best"]
    if (
        set(best) != {"loss", "step", "since"}
        or type(best["loss"]) not in (int, float)
        or not all(type(best[n]) is int for n in ("step", "since"))
        or not (-1 <= best["step"] <= step and best["since"] >= 0)
    ):
        raise DamagedError(f"{folder}: best is {quoted(best)}, which no validation leaves")
    for name in ("history", "validation"):
        _check_table(state[name], f"{folder}: {name}")
    rows = state["since_log"]
    if not all(isinstance(r, Tensor) and r.ndim == 1 and r.is_floating_point() for r in rows) or (
        len({(r.shape, r.dtype) for r in rows}) > 1
    ):
        raise DamagedError(f"{folder}: since_log must hold vectors of losses, all of one length")
    for one in state["random"]:
        try:
            check_random_state(one)
        except ValueError as error:
            raise DamagedError(f"{folder}: random: {error}") from error


def check_weights(tensors: Mapping[str, Tensor], module: nn.Module, source: str) -> None:
    """Raise unless weights can be given to a module, now or at the end of the training.

    Raises:
        DamagedError: if one that is trained is not finite.
        MismatchError: if they are of another module.
    """
    check_suits(module, tensors, source)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not tensors[name].isfinite().all():
            raise DamagedError(f"{source}: {quoted(name)} is not finite")


def check_schedule(state: Any, schedule: LRScheduler | None, folder: Path) -> None:
    """Raise unless a state can be that of a schedule, which takes over whatever it is given.

    Raises:
        DamagedError: if a value is of another kind, or a number not finite.
        MismatchError: if it is the state of another schedule.
    """
    own = None if schedule is None else schedule.state_dict()
    if (state is None) != (own is None):
        raise MismatchError(
            f"{folder}: lr_schedule is {quoted(state)} there, and here "
            f"{type(schedule).__name__}; give what was given before"
        )
    if own is None:
        return
    if not isinstance(state, Mapping):
        raise DamagedError(f"{folder}: lr_schedule must be a mapping, got {describe(state)}")
    if type(schedule).__module__.startswith("torch."):
        check_alike(state, own, f"{folder}: lr_schedule")
        return
    methods = [name for name in state if type(name) is not str or hasattr(type(schedule), name)]
    if methods:
        raise DamagedError(f"{folder}: lr_schedule: {quoted(methods[0])} is no entry of a state")


def check_alike(value: Any, like: Any, path: str) -> None:
    """Raise unless a value has the structure of another, and the same flags and words.

    Numbers may be others, but must be finite.

    Raises:
        DamagedError: if it has not; the message starts with the path.
    """
    if isinstance(like, Mapping):
        if not isinstance(value, Mapping) or set(value) != set(like):
            raise DamagedError(f"{path} must have {_names(like)}, got {_names(value)}")
        for key, item in like.items():
            check_alike(value[key], item, f"{path}[{quoted(key)}]")
    elif isinstance(like, (list, tuple)):
        if not isinstance(value, (list, tuple)) or len(value) != len(like):
            raise DamagedError(f"{path} must be {len(like)} values, got {describe(value)}")
        for i, (item, of_like) in enumerate(zip(value, like, strict=True)):
            check_alike(item, of_like, f"{path}[{i}]")
    elif isinstance(like, Tensor):
        same = isinstance(value, Tensor) and (value.shape, value.dtype) == (like.shape, like.dtype)
        if not same or not value.isfinite().all():
            raise DamagedError(f"{path} must be {describe(like)}, finite, got {describe(value)}")
    elif type(like) in (int, float):
        if not _is_number(value):
            raise DamagedError(f"{path} must be a finite number, got {describe(value)}")
    elif type(value) is not type(like) or value != like:
        raise DamagedError(f"{path} must be {quoted(like)}, got {describe(value)}")


_KINDS: dict[str, type] = {
    "declaration": dict,
    "source": dict,
    "optimizer": dict,
    "best": dict,
    "history": dict,
    "validation": dict,
    "since_log": list,
    "random": list,
}


def _check_table(columns: Mapping[Any, Any], path: str) -> None:
    for name, values in columns.items():
        if (
            type(name) is not str
            or not 0 < len(name) <= _LONGEST
            or not name.isprintable()
            or set(name) & set(',"')
        ):
            raise DamagedError(f"{path} has {quoted(name)} for the name of a column")
        if not isinstance(values, Tensor) or values.ndim != 1 or values.dtype != torch.float64:
            raise DamagedError(f"{path}: {reason(name)} must be numbers, got {describe(values)}")
    if len({len(values) for values in columns.values()}) > 1:
        raise DamagedError(f"{path} has columns of different lengths")
    steps = columns.get("step", torch.empty(0))
    if columns and (not steps.isfinite().all() or len(steps) != len(next(iter(columns.values())))):
        raise DamagedError(f"{path} must have a step for each row, finite numbers")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: object) -> bool:
    if type(value) is int:
        return abs(value) < 2**63
    return type(value) is float and math.isfinite(value)


def _names(value: object) -> str:
    if not isinstance(value, (Mapping, Sequence)):
        return describe(value)
    return f"the entries {quoted(list(value))}"
