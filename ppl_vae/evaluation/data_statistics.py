"""Statistics of whole data sets by the kind of their values, over observed cells (not NaN).

A kind has the same statistics for all data sets: where no cell is observed they are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_vae.distributions.columnwise import ColumnSupport
from ppl_vae.errors import describe
from ppl_vae.models.observation import Observation

Statistics = Callable[[Tensor], dict[str, float]]
"""A function of a data set ``(N, *event)``, NaN where missing, to numbers by name."""

MAX_SHARES = 10
"""A column of more levels has no share of each."""

_QUANTILES = (0.05, 0.5, 0.95)


def default_statistics(
    observation: Observation, reference: Tensor, *, share_observed: bool
) -> Statistics:
    """Return the statistics for a kind of data.

    Args:
        observation: the event shape and the support of the data.
        reference: E[x] under the model, shape ``event``: the distance from it is a statistic.
        share_observed: whether the share of observed cells is one, too.
    """
    of_values = _of_values(observation, reference)
    if not share_observed:
        return of_values
    return lambda x: of_values(x) | {"share observed": _mean(~x.isnan())}


def _of_values(observation: Observation, reference: Tensor) -> Statistics:
    element = observation.element
    if isinstance(element, ColumnSupport):
        return lambda x: _table(x, element)
    if observation.is_boolean:
        kind = _pixels
    elif observation.levels is not None or isinstance(element, type(constraints.unit_interval)):
        kind = _grey
    elif observation.is_integer:
        kind = _counts
    else:
        kind = _continuous
    return lambda x: kind(x.double()) | {"distance of means": _distance(x.double(), reference)}


def given_statistics(owner: str, functions: Mapping[str, Callable[[Tensor], Any]]) -> Statistics:
    """Return the user's statistics, checked to be finite numbers."""
    if not isinstance(functions, Mapping) or not functions:
        expected = "None or a dictionary, name -> function of a tensor (N, *event)"
        raise TypeError(f"{owner}: statistics must be {expected}, got {describe(functions)}")
    for name, function in functions.items():
        if not isinstance(name, str) or not callable(function):
            raise TypeError(
                f"{owner}: statistics must map names to functions of a tensor (N, *event), got "
                f"{describe(name)}: {describe(function)}"
            )
    return lambda x: {name: _number(owner, name, f(x), x) for name, f in functions.items()}


def _number(owner: str, name: str, value: Any, x: Tensor) -> float:
    expected = f"{owner}: statistics[{name!r}] must return a finite number"
    size = value.numel() if isinstance(value, Tensor) else np.size(value)
    if size != 1 or isinstance(value, (bool, str, bytes)):
        raise TypeError(f"{expected}, got {describe(value)}")
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{expected}, got {describe(value)}") from error
    if not np.isfinite(found):
        fix = "; missing cells are NaN: use torch.nanmean, or x[~x.isnan()]"
        raise ValueError(f"{expected}, got {found}{fix if x.isnan().any() else ''}")
    return found


def _pixels(x: Tensor) -> dict[str, float]:
    totals = x.reshape(len(x), -1).nansum(1)
    return {"mean total": _mean(totals), "variance of totals": _variance(totals)}


def _grey(x: Tensor) -> dict[str, float]:
    values = x[~x.isnan()]
    return _pixels(x) | {"sd": _sd(values), "share of 0": _mean(values == 0)}


def _counts(x: Tensor) -> dict[str, float]:
    values = x[~x.isnan()]
    seen = ~x.isnan()
    number = seen.sum(0)
    mean = x.nansum(0) / number
    variance = (x - mean).square().nansum(0) / (number - 1)
    ratio = (variance / mean)[(mean > 0) & (number > 1)]
    return _pixels(x) | {
        "share of 0": _mean(values == 0),
        "variance / mean, median": ratio.median().item() if len(ratio) else 0.0,
        "max": values.max().item() if len(values) else 0.0,
    }


def _continuous(x: Tensor) -> dict[str, float]:
    values = x[~x.isnan()].sort().values
    low, high = (values[0].item(), values[-1].item()) if len(values) else (0.0, 0.0)
    return {
        "mean": _mean(values),
        "sd": _sd(values),
        "skewness": _skewness(values),
        **_quantiles(values),
        "min": low,
        "max": high,
        "variance of totals": _variance(x.reshape(len(x), -1).nansum(1)),
    }


def _table(x: Tensor, support: ColumnSupport) -> dict[str, float]:
    found: dict[str, float] = {}
    for index, (values, own) in enumerate(
        zip(x.double().unbind(-1), support.supports, strict=True)
    ):
        for name, value in _column(values[~values.isnan()], own).items():
            found[f"column {index}: {name}"] = value
    return found


def _column(values: Tensor, support: Constraint) -> dict[str, float]:
    if isinstance(support, type(constraints.boolean)):
        return {"share of 1": _mean(values)}
    if isinstance(support, constraints.integer_interval):
        codes = range(int(support.lower_bound), int(support.upper_bound) + 1)
        if len(codes) <= MAX_SHARES:
            return {f"share of {code}": _mean(values == code) for code in codes}
        shares = values.unique(return_counts=True)[1].double() / max(1, len(values))
        return {"entropy": -(shares * shares.log()).sum().item()}
    numbers = {"mean": _mean(values), "sd": _sd(values)}
    if support.is_discrete:
        return numbers | {"share of 0": _mean(values == 0)}
    return numbers | _quantiles(values.sort().values)


def _distance(x: Tensor, reference: Tensor) -> float:
    """Return the root mean square over entries of the distance of their mean from E[x]."""
    error = x.nanmean(0) - reference
    return error[error.isfinite()].square().mean().sqrt().nan_to_num().item()


def _mean(values: Tensor) -> float:
    return values.double().mean().nan_to_num().item()  # of nothing it is NaN


def _variance(values: Tensor) -> float:
    return values.var(correction=0).nan_to_num().item() if len(values) else 0.0


def _sd(values: Tensor) -> float:
    return _variance(values) ** 0.5


def _skewness(values: Tensor) -> float:
    deviations, sd = values - _mean(values), _sd(values)
    return _mean((deviations / sd) ** 3) if sd > 0 else 0.0


def _quantiles(ordered: Tensor) -> dict[str, float]:
    """Return quantiles of sorted values, of any number of them."""
    last = len(ordered) - 1
    return {
        f"{100 * p:g} % quantile": ordered[round(p * last)].item() if last >= 0 else 0.0
        for p in _QUANTILES
    }
