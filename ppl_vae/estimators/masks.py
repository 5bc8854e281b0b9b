"""Separating masks, ``fn.mask(m)``, from the distributions they are on."""

from __future__ import annotations

from typing import Any

from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

Mask = Tensor | bool | None
"""True where a term counts; None and True mean everywhere."""


def both(one: Mask, other: Mask) -> Mask:
    """Return the conjunction of two masks."""
    if one is None or one is True or other is False:
        return other
    if other is None or other is True or one is False:
        return one
    return one & other


def without_mask(fn: Any) -> tuple[Any, Mask]:
    """Return a distribution without the masks on its batch entries, and their conjunction or None.

    Masks within events, as of ``Normal(...).mask(m).to_event(1)``, stay where they are unless they
    are constant over each event.
    """
    if isinstance(fn, MaskedDistribution):
        inner, mask = without_mask(fn.base_dist)
        return inner, both(fn._mask, mask)
    if isinstance(fn, ExpandedDistribution):
        inner, mask = without_mask(fn.base_dist)
        return (fn if inner is fn.base_dist else inner.expand(fn.batch_shape)), mask
    if isinstance(fn, Independent):
        inner, mask = without_mask(fn.base_dist)
        count = fn.reinterpreted_batch_ndims
        if inner is fn.base_dist:
            return fn, None
        if isinstance(mask, Tensor):
            of_event = mask.shape[mask.dim() - count :]
            strides = mask.stride()[mask.dim() - count :]
            if any(s for size, s in zip(of_event, strides, strict=True) if size > 1):
                return fn, None
            first: Any = (..., *[0] * count)
            mask = mask[first]
        return inner.to_event(count), mask
    return fn, None


def elementwise(fn: Any) -> tuple[Any, Mask, int]:
    """Return a distribution without any masks, their conjunction, and the event dims it spans.

    The mask, or None, has the batch shape followed by that many of the event's first dimensions.
    """
    if isinstance(fn, MaskedDistribution):
        inner, mask, count = elementwise(fn.base_dist)
        own = fn._mask
        if isinstance(own, Tensor):
            own = own[(..., *[None] * count)]
        return inner, both(own, mask), count
    if isinstance(fn, (ExpandedDistribution, Independent)):
        inner, mask, count = elementwise(fn.base_dist)
        if inner is fn.base_dist:
            return fn, None, 0
        if isinstance(fn, ExpandedDistribution):
            return inner.expand(fn.batch_shape), mask, count
        number = fn.reinterpreted_batch_ndims
        return inner.to_event(number), mask, 0 if mask is None else count + number
    return fn, None, 0


def is_masked(fn: Any) -> bool:
    """Return whether there is a mask anywhere in a distribution."""
    if isinstance(fn, MaskedDistribution):
        return True
    for name in ("base_dist", "component_distribution"):
        part = getattr(fn, name, None)
        if part is not None and is_masked(part):
            return True
    return False
