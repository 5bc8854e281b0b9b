"""Likelihoods of real-valued data: normal and Laplace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.errors import positive_int
from ppl_vae.likelihoods.parameters import (
    Positive,
    WithPositive,
    count_with,
    declare,
    location_and,
    plain,
    widened,
)


class _Located(WithPositive):
    """p(x | z) of a location that the network returns and a positive scale, element by element."""

    family: ClassVar[Any]  # of Pyro: (location, scale) -> distribution

    def __init__(self, net: nn.Module, scale: Positive = 1.0, *, event_dim: int = 1) -> None:
        super().__init__(net)
        self.event_dim = positive_int(type(self).__name__, "event_dim", event_dim)
        self.scale = plain(scale)
        declare(self, "scale", scale)

    @staticmethod
    def net_shape(event_shape: Sequence[int], *, scale: Positive = 1.0) -> tuple[int, ...]:
        """Return what the network must return per datum: locations, and scales if per pixel."""
        return widened(event_shape, count_with(scale))

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the location."""
        location, scale = location_and(self, "scale", self.outputs(*context), self.event_dim)
        return self.family(location, scale).to_event(self.event_dim)


class Normal(_Located):
    """p(x | z) = Π_d N(x_d; net(z)_d, σ²), for real-valued data.

    With a fixed scale, -log p(x | z) = ‖x - net(z)‖² / (2σ²) + D log σ + D/2 log 2π: the
    "squared-error VAE" of many tutorials is this likelihood with σ = 1/√2, where the squared error
    has weight 1 against the KL (σ = 1 gives it weight 1/2). Choosing σ is choosing that weight.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns the mean. With
            ``scale="per-pixel"`` it returns twice the channels: the mean, then the unconstrained
            scale, split on the first event dimension (the last dimension for flat data).
        scale: the standard deviation σ: a number (fixed), ``"learned"`` (one for all pixels,
            1 at the start; the optimal-σ VAE of Rybkin et al. 2021, arXiv 2006.13202), or
            ``"per-pixel"`` (a function of z). Learned scales are softplus(.) + 1e-4.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
    """

    family = dist.Normal


class Laplace(_Located):
    """p(x | z) = Π_d exp(-|x_d - net(z)_d| / b) / 2b, for real-valued data with outliers.

    The absolute error is to this likelihood what the squared error is to `Normal`. Its mean and
    median are net(z); its standard deviation is √2 b.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns the location, and with
            ``scale="per-pixel"`` the unconstrained scale after it, as in `Normal`.
        scale: b: a number (fixed), ``"learned"`` or ``"per-pixel"``, as in `Normal`.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
    """

    family = dist.Laplace
