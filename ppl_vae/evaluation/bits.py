"""Bits per dimension, the unit in which likelihoods of images are reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, overload

from torch import Tensor

from ppl_vae.errors import number, positive_int, sizes
from ppl_vae.evaluation.estimate import Estimate

Kind = Literal["mass", "density", "both"]
"""What p(x) is: a mass, a density, or both, in different sites or columns."""


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
    r"""Return -log p(x), or a bound on it, in bits per dimension.

        nats / (D log 2)              where p is a mass,
        nats / (D log 2) + log2(L)    where p is a density of data dequantised from L levels,

    the second a bound on the bits of the integers (see :meth:`ppl_vae.data.Dataset.dequantised`).
    **Any other density has no bits per dimension**: its nats depend on the unit of x, and on
    discrete levels without noise it is unbounded. This function cannot tell; the method
    ``log_likelihood(...).bits_per_dim`` can, and raises.

    Source: Theis et al. 2016 (arXiv 1511.01844), section 3.1.

    Args:
        nats: -log p(x) in nats per datum: a number, a tensor, or an `Estimate`.
        event_shape: shape of one datum; D is its product.
        dequantised_levels: L, if p is a density of (k + u) / L in [0, 1]; 256 for 8-bit images.

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
        return Estimate(nats.mean / unit + added, nats.standard_error / unit, nats.count)
    return nats / unit + added


def no_bits(kind: Kind | None, dequantised_levels: int | None) -> str | None:
    """Return why p(x) has no bits per dimension; None if it has, or nothing is known.

    Args:
        kind: what p(x) is.
        dequantised_levels: the levels that x was dequantised from; None if it was not.
    """
    if kind == "both":
        return "p(x) is a mass in some of its entries and a density in others"
    if kind == "density" and dequantised_levels is None:
        return (
            "p(x) is a density, whose bits depend on the unit of x unless x was dequantised from "
            "levels"
        )
    return None
