"""Checks of an optimiser's state from a file against the optimiser's parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ppl_vae.errors import describe, quoted, reason
from ppl_vae.io.errors import DamagedError
from ppl_vae.training.checkpoint_checks import check_structure

# Means of squares, sums of squares, norms and step sizes.
_NON_NEGATIVE = (
    *("step", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "acc_delta", "sum"),
    *("row_var", "col_var", "variance", "step_size"),
)


def checked_optimizer(
    state: Mapping[str, Any], optimizer: Optimizer, folder: Path
) -> dict[str, Any]:
    """Return a copy of a state that ``optimizer.load_state_dict`` can safely take.

    What an optimiser of torch expects is found by a trial: one of its class, with the options in
    the file, takes a step on a copy of each parameter with a zero gradient. For any other, a tensor
    must have one element or the shape of its parameter. The copies have the memory layout of the
    optimiser's own state: some of torch's kernels iterate over the memory of both.

    Raises:
        DamagedError: if groups, options, parameters or entries differ, a tensor has another shape
            or dtype, or a number is not finite, or negative where it must not be.
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
