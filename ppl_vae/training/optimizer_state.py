"""The state of an optimiser from a file, checked against its parameters before it is used."""

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
from ppl_vae.training.checkpoint_checks import check_alike

# Means of squares, sums of squares, norms and sizes of steps.
_NOT_NEGATIVE = (
    *("step", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "acc_delta", "sum"),
    *("row_var", "col_var", "variance", "step_size"),
)


def checked_optimizer(
    state: Mapping[str, Any], optimizer: Optimizer, folder: Path
) -> dict[str, Any]:
    """Return a state that ``optimizer.load_state_dict`` can take.

    An optimiser of torch itself says what its state must look like: one is made of a copy of each
    parameter, with the options in the file, and takes a step without a gradient. Of any other, a
    tensor has one element or the shape of its parameter. Tensors come back as copies, laid out in
    memory as those of the optimiser are: some of torch's kernels go through the memory of the two
    side by side.

    Raises:
        DamagedError: if there are other groups, options, parameters or entries, a tensor has
            another shape or dtype, or a number is not finite, or negative where that cannot be.
    """
    own = optimizer.state_dict()
    where = f"{folder}: optimizer"
    if set(state) != set(own):
        raise DamagedError(f"{where} must have {quoted(list(own))}, got {quoted(list(state))}")
    check_alike(state["param_groups"], own["param_groups"], f"{where}: param_groups")
    given, numbers = state["state"], [n for g in own["param_groups"] for n in g["params"]]
    if [g["params"] for g in state["param_groups"]] != [g["params"] for g in own["param_groups"]]:
        raise DamagedError(f"{where}: its parameters are numbered in another way")
    if not isinstance(given, dict) or not all(type(n) is int and n in numbers for n in given):
        raise DamagedError(f"{where}: state must map numbers of parameters, got {quoted(given)}")
    groups = zip(optimizer.param_groups, state["param_groups"], strict=True)
    parameters = [(p, saved) for group, saved in groups for p in group["params"]]
    found = {}
    for number, (parameter, group) in zip(numbers, parameters, strict=True):
        if number in given:
            path = f"{where}: parameter {number}"
            like = _like(optimizer, parameter, group, path)
            exact = type(optimizer).__module__.startswith("torch.")
            found[number] = _of_one(given[number], parameter, like, exact, path)
    return {**state, "state": found}


def _like(
    optimizer: Optimizer, parameter: Tensor, group: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Return the state that torch's optimiser would have for a parameter; of others, nothing."""
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


def _of_one(
    given: Any, parameter: Tensor, like: Mapping[str, Any], exact: bool, path: str
) -> dict[str, Any]:
    """Return what is kept of one parameter, checked."""
    if not isinstance(given, dict) or not all(type(name) is str for name in given):
        raise DamagedError(f"{path} must have a mapping of names, got {describe(given)}")
    if exact and given and set(given) != set(like):
        raise DamagedError(f"{path} must have {quoted(list(like))}, got {quoted(list(given))}")
    return {
        name: _checked(value, parameter, like.get(name), name, f"{path}: {reason(name)}")
        for name, value in given.items()
    }


def _checked(value: Any, parameter: Tensor, like: Any, name: str, path: str) -> Any:
    if isinstance(value, Tensor):
        if like is None and value.numel() != 1 and value.shape != parameter.shape:
            expected = f"one element or the shape {tuple(parameter.shape)} of the parameter"
            raise DamagedError(f"{path} must have {expected}, got {describe(value)}")
        as_like = like if isinstance(like, Tensor) else parameter
        counts = as_like.ndim == 0 and value.ndim == 0  # steps, whose dtype is the default one
        if like is not None and not (
            isinstance(like, Tensor)
            and value.shape == like.shape
            and (value.dtype == like.dtype or (counts and value.is_floating_point()))
        ):
            raise DamagedError(f"{path} must be {describe(like)}, got {describe(value)}")
        _check_numbers(value, like is not None, name, path)
        if value.shape != as_like.shape:
            return value.clone()
        copy = torch.empty_like(as_like, dtype=value.dtype, requires_grad=False)
        return copy.copy_(value)
    if like is not None:
        check_alike(value, like, path)
    if isinstance(value, Mapping):
        inner = {
            key: _checked(item, parameter, None, str(key), f"{path}[{quoted(key)}]")
            for key, item in value.items()
        }
        return inner
    if isinstance(value, (list, tuple)):
        items = (
            _checked(item, parameter, None, name, f"{path}[{i}]") for i, item in enumerate(value)
        )
        return type(value)(items)
    return value


def _check_numbers(value: Tensor, known: bool, name: str, path: str) -> None:
    real = torch.view_as_real(value) if value.is_complex() else value
    counts = known or name == "step"
    if counts and not real.isfinite().all():
        raise DamagedError(f"{path} is not finite")
    if counts and name in _NOT_NEGATIVE and bool((real < 0).any()):
        raise DamagedError(f"{path} is negative, which it cannot be")
    if name == "step" and value.numel() != 1:
        raise DamagedError(f"{path} must be one number, got {describe(value)}")
