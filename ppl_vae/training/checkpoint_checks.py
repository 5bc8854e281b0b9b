"""Checks of a checkpoint's contents before anything is loaded.

A checkpoint may come from anybody, and loading it unchecked may do more than fail: fused optimisers
index the memory of their state by the shape of the parameter.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
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
# Means of squares, sums of squares, norms and step sizes.
_NON_NEGATIVE = (
    *("step", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "acc_delta", "sum"),
    *("row_var", "col_var", "variance", "step_size"),
)


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
    fixed = state.get("fixed", {"first": [], "now": []})  # since 0.3
    if not (
        isinstance(fixed, dict)
        and set(fixed) == {"first", "now"}
        and all(type(names) is list and {*map(type, names)} <= {str} for names in fixed.values())
    ):
        raise DamagedError(f"{folder}: fixed must have names of parameters, got {quoted(fixed)}")
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
    """Raise DamagedError unless a value is like another; numbers may differ, but must be finite."""
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


def checked_optimizer(
    state: Mapping[str, Any], optimizer: Optimizer, folder: Path
) -> dict[str, Any]:
    """Return a copy of a state that ``optimizer.load_state_dict`` can safely take.

    What an optimiser of torch expects is found by a trial: one of its class, with the options in
    the file, takes a step on a copy of each parameter with a zero gradient. For any other, a tensor
    must have one element or the shape of its parameter. The copies have the memory layout of the
    optimiser's own state: some of torch's kernels iterate over the memory of both.
    """
    own = optimizer.state_dict()
    where = f"{folder}: optimizer"
    if set(state) != set(own):
        raise DamagedError(f"{where} must have {quoted(list(own))}, got {quoted(list(state))}")
    check_structure(state["param_groups"], own["param_groups"], f"{where}: param_groups")
    given, numbers = state["state"], [n for g in own["param_groups"] for n in g["params"]]
    if [g["params"] for g in state["param_groups"]] != [g["params"] for g in own["param_groups"]]:
        raise DamagedError(f"{where}: its parameters are numbered differently")
    if not isinstance(given, dict) or not all(type(n) is int and n in numbers for n in given):
        raise DamagedError(f"{where}: state must have parameters' numbers, got {quoted(given)}")
    groups = zip(optimizer.param_groups, state["param_groups"], strict=True)
    parameters = [(p, saved) for group, saved in groups for p in group["params"]]
    found = {}
    for number, (parameter, group) in zip(numbers, parameters, strict=True):
        if number in given:
            path = f"{where}: parameter {number}"
            expected = _expected_entries(optimizer, parameter, group, path)
            exact = type(optimizer).__module__.startswith("torch.")
            found[number] = _checked_entries(given[number], parameter, expected, exact, path)
    return {**state, "state": found}


def _expected_entries(
    optimizer: Optimizer, parameter: Tensor, group: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Return the state that torch's optimiser has for a parameter; of others, nothing."""
    bases = [c for c in type(optimizer).__mro__ if c.__module__.startswith("torch.")]
    if bases[0] is Optimizer:
        return {}
    names = list(inspect.signature(bases[0].__init__).parameters)[2:]  # type: ignore[misc]
    copy = torch.zeros_like(parameter, requires_grad=True)
    copy.grad = torch.zeros_like(copy)
    try:
        trial = bases[0]([copy], **{n: group[n] for n in names if n in group})
    except (TypeError, ValueError) as error:
        raise DamagedError(f"{path}: {bases[0].__name__} refuses it: {reason(error)}") from error
    trial.step()
    return dict(trial.state[copy])


def _checked_entries(
    given: Any, parameter: Tensor, expected: Mapping[str, Any], exact: bool, path: str
) -> dict[str, Any]:
    if not isinstance(given, dict) or not all(type(name) is str for name in given):
        raise DamagedError(f"{path} must have a mapping of names, got {describe(given)}")
    if exact and given and set(given) != set(expected):
        raise DamagedError(f"{path} must have {quoted(list(expected))}, got {quoted(list(given))}")
    return {
        name: _checked(value, parameter, expected.get(name), name, f"{path}: {reason(name)}")
        for name, value in given.items()
    }


def _checked(value: Any, parameter: Tensor, expected: Any, name: str, path: str) -> Any:
    if isinstance(value, Tensor):
        return _checked_tensor(value, parameter, expected, name, path)
    if expected is not None:
        check_structure(value, expected, path)
    if isinstance(value, Mapping):
        return {
            key: _checked(item, parameter, None, str(key), f"{path}[{quoted(key)}]")
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(
            _checked(item, parameter, None, name, f"{path}[{i}]") for i, item in enumerate(value)
        )
    return value


def _checked_tensor(
    value: Tensor, parameter: Tensor, expected: Any, name: str, path: str
) -> Tensor:
    like = expected if isinstance(expected, Tensor) else parameter
    if expected is None:
        if value.numel() != 1 and value.shape != parameter.shape:
            shapes = f"one element or the shape {tuple(parameter.shape)} of the parameter"
            raise DamagedError(f"{path} must have {shapes}, got {describe(value)}")
    elif not (
        isinstance(expected, Tensor)
        and value.shape == expected.shape
        # A count of steps has the default dtype.
        and (value.dtype == expected.dtype or (value.ndim == 0 and value.is_floating_point()))
    ):
        raise DamagedError(f"{path} must be {describe(expected)}, got {describe(value)}")
    _check_numbers(value, expected is not None, name, path)
    if value.shape != like.shape:
        return value.clone()
    return torch.empty_like(like, dtype=value.dtype, requires_grad=False).copy_(value)


def _check_numbers(value: Tensor, known: bool, name: str, path: str) -> None:
    real = torch.view_as_real(value) if value.is_complex() else value
    if known or name == "step":
        if not real.isfinite().all():
            raise DamagedError(f"{path} is not finite")
        if name in _NON_NEGATIVE and bool((real < 0).any()):
            raise DamagedError(f"{path} is negative")
    if name == "step" and value.numel() != 1:
        raise DamagedError(f"{path} must be one number, got {describe(value)}")


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
