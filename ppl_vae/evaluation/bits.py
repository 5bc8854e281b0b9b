"""Bits per dimension, the unit in which likelihoods of images are reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

from torch import Tensor

from ppl_vae.errors import number, positive_int, sizes
from ppl_vae.evaluation.estimate import Estimate


@overload
def bits_per_dim(
    nats: int | float, event_shape: Sequence[int], *, dequantised_levels: int | None = None
) -> float: ...
@overload
def bits_per_dim(
    nats: Tensor, event_shape: Sequence[int], *, dequantised_levels: int | None = None
) -> Tensor: ...
@overload
def bits_per_dim(
    nats: Estimate, event_shape: Sequence[int], *, dequantised_levels: int | None = None
) -> Estimate: ...
def bits_per_dim(
    nats: int | float | Tensor | Estimate,
    event_shape: Sequence[int],
    *,
    dequantised_levels: int | None = None,
) -> float | Tensor | Estimate:
    """Return nats / (D log 2), for -log p(x) of D dimensions or a bound on it.

    Args:
        nats: -log p(x) in nats per datum: a number, a tensor, or an `Estimate`, whose mean and
            standard error are both converted.
        event_shape: shape of one datum; D is its product.
        dequantised_levels: give it where p is a density of data that were dequantised to [0, 1)
            (`ppl_vae.data.Dataset.dequantised`) from so many levels, 256 for 8-bit images: log2 of
            it is added, which makes the result a bound on the bits of the integers.

    Example:
        >>> round(bits_per_dim(100.0, (28, 28)), 3)  # 100 nats per image of MNIST
        0.184
    """
    if not isinstance(nats, (Estimate, Tensor)):
        nats = number("bits_per_dim", "nats", nats)
    unit = math.prod(sizes("bits_per_dim", "event_shape", event_shape)) * math.log(2)
    added = 0.0
    if dequantised_levels is not None:
        added = math.log2(positive_int("bits_per_dim", "dequantised_levels", dequantised_levels))
    if isinstance(nats, Estimate):
        return Estimate(nats.mean / unit + added, nats.standard_error / unit)
    return nats / unit + added
