"""Values outside the support of a distribution."""

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
_BOOLEAN = type(constraints.boolean)
_INTEGERS = constraints.integer_interval


def leaves_support(fn: Any, value: Tensor, source: Any) -> Tensor | None:
    """Return which values are outside the support of ``fn``, of its batch shape; None if none can.

    ``source`` is the distribution that they were drawn from, if known.
    """
    if _checks_values(fn):
        return None
    support = _support(fn)
    if support is None or _same(support, _support(source)):
        return None
    if isinstance(_element(support), _REAL):
        return None
    # NaN does not count as outside, so that it stays visible.
    outside = ~support.check(value)
    count = outside.dim() - (value.dim() - fn.event_dim)
    return _of_event(outside, count, torch.any) & _of_event(value == value, fn.event_dim, torch.all)


def as_drawn(fn: Any, value: Tensor) -> Tensor:
    """Return values in the dtype of the distribution's own draws, if its density needs it.

    torch's ``Bernoulli`` does not accept integers drawn from a ``Categorical``.
    """
    if value.is_floating_point():
        return value
    support = _support(fn)
    if support is None or not isinstance(_element(support), _BOOLEAN):
        return value
    return value.to(fn.mean.dtype)


def inner_value(fn: Any, value: Tensor, outside: Tensor) -> Tensor:
    """Return values with those outside the support replaced by one inside."""
    inside = _inside(_support(fn), value)
    if inside is None:
        return value
    return torch.where(outside.reshape(outside.shape + (1,) * fn.event_dim), inside, value)


def _inside(support: Constraint | None, value: Tensor) -> Tensor | None:
    """Return values inside a support, broadcastable to ``value``; None if none are known."""
    if support is not None and support.is_discrete:
        return _least(_element(support), value)
    while support is not None:
        try:
            to_support = biject_to(support)
        except NotImplementedError:
            support = getattr(support, "base_constraint", None)
            continue
        real = value if value.is_floating_point() else value.to(torch.get_default_dtype())
        return to_support(real.new_zeros(to_support.inverse_shape(value.shape)))
    return None


def _least(element: Constraint, value: Tensor) -> Tensor | None:
    """Return the least value of a discrete support, None if it has none."""
    if isinstance(element, _BOOLEAN):
        return value.new_zeros(())
    least = getattr(element, "lower_bound", None)
    return None if least is None else torch.as_tensor(least, dtype=value.dtype, device=value.device)


def _element(support: Constraint) -> Constraint:
    """Return the support of a single entry, or of the components of a mixture."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _same(one: Constraint, other: Constraint | None) -> bool:
    """Return whether two supports are known to be equal without reading tensors."""
    if one is other:
        return True
    if not (isinstance(one, _INTEGERS) and isinstance(other, _INTEGERS)):
        return False
    ends = one.lower_bound, one.upper_bound, other.lower_bound, other.upper_bound
    return all(isinstance(end, int) for end in ends) and ends[:2] == ends[2:]


def _of_event(which: Tensor, count: int, any_or_all: Callable[[Tensor, int], Tensor]) -> Tensor:
    return any_or_all(which.flatten(-count), -1) if count > 0 else which


def _support(fn: Any) -> Constraint | None:
    try:
        return None if fn is None else fn.support
    except NotImplementedError:
        return None


def _checks_values(fn: Any) -> bool:
    """Return whether a distribution validates its values."""
    while isinstance(fn, (Independent, MaskedDistribution, ExpandedDistribution)):
        fn = fn.base_dist
    return fn._validate_args
