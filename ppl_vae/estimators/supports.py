"""Values outside the support of a density, which is 0 there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, biject_to
from torch.distributions.constraints import Constraint

_REAL = type(constraints.real)


def leaves_support(fn: Any, value: Tensor, source: Any) -> Tensor | None:
    """Return where values have density 0, of the batch shape; None where they have it nowhere.

    Args:
        fn: the distribution whose density is asked for.
        value: where.
        source: the distribution that the value was drawn from, if known.
    """
    if _checks_values(fn):
        return None
    support = _support(fn)
    if support is None or support.is_discrete or support is _support(source):
        return None
    element = support
    while hasattr(element, "base_constraint"):  # of independent entries, or of mixtures
        element = element.base_constraint
    if isinstance(element, _REAL):
        return None
    # NaN is no value outside: it stays and shows.
    outside = ~support.check(value)
    count = outside.dim() - (value.dim() - fn.event_dim)
    return _of_event(outside, count, torch.any) & _of_event(value == value, fn.event_dim, torch.all)


def inner_value(fn: Any, value: Tensor, outside: Tensor) -> Tensor:
    """Return values with those outside the support replaced by one inside."""
    support = _support(fn)
    while support is not None:
        try:
            to_support = biject_to(support)
        except NotImplementedError:
            support = getattr(support, "base_constraint", None)
            continue
        inside = to_support(value.new_zeros(to_support.inverse_shape(value.shape)))
        return torch.where(outside.reshape(outside.shape + (1,) * fn.event_dim), inside, value)
    return value  # no map into the support is known: the density at least is 0


def _of_event(which: Tensor, count: int, any_or_all: Callable[[Tensor, int], Tensor]) -> Tensor:
    return any_or_all(which.flatten(-count), -1) if count > 0 else which


def _support(fn: Any) -> Constraint | None:
    try:
        return None if fn is None else fn.support
    except NotImplementedError:
        return None


def _checks_values(fn: Any) -> bool:
    """Tell whether a distribution raises an error for what is outside its support."""
    while isinstance(fn, (Independent, MaskedDistribution, ExpandedDistribution)):
        fn = fn.base_dist
    return fn._validate_args
