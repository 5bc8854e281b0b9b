"""Likelihoods of real-valued data: normal and Laplace."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.distributions.scale import MIN_SCALE, checked_min_scale
from ppl_vae.errors import describe, positive_int
from ppl_vae.likelihoods.parameters import (
    WithPositive,
    count_with,
    declare,
    location_and,
    plain,
    widened,
)

Scale: TypeAlias = int | float | Literal["learned", "parameter", "per-pixel"]
"""A fixed number, one learned in either way, or one for each element, from the network."""

MOMENTUM = 0.1
"""What a training step's error counts in the running mean: the last ten or so make it."""


class _Located(WithPositive):
    """p(x | z) of a location that the network returns and a positive scale, element by element.

    A scale that is ``"learned"`` is σ = e^s σ₀, where σ₀ is the scale of greatest likelihood of the
    running mean error (a buffer, see `update_running_statistics`), and s a parameter.
    """

    family: ClassVar[Any]  # of Pyro: (location, scale) -> distribution
    running_error: Tensor
    log_ratio: Tensor

    def __init__(
        self,
        net: nn.Module,
        scale: Scale = 1.0,
        *,
        event_dim: int = 1,
        min_scale: int | float = MIN_SCALE,
    ) -> None:
        super().__init__(net)
        owner = type(self).__name__
        self.event_dim = positive_int(owner, "event_dim", event_dim)
        self.scale = plain(scale)
        self.min_scale = checked_min_scale(owner, min_scale)
        if scale == "learned":
            self.log_ratio = nn.Parameter(torch.zeros(()))
            self.register_buffer("running_error", torch.zeros(()))
            return
        declare(self, "scale", scale, ("learned", "parameter", "per-pixel"))
        if not isinstance(scale, str) and min_scale != MIN_SCALE:
            raise ValueError(
                f"{owner}: min_scale is for scales that are learned, and scale is fixed, "
                f"{describe(scale)}; leave min_scale out"
            )

    @staticmethod
    def net_shape(event_shape: Sequence[int], *, scale: Scale = 1.0) -> tuple[int, ...]:
        """Return what the network must return per datum: locations, and scales if per pixel."""
        return widened(event_shape, count_with(scale))

    @staticmethod
    @abstractmethod
    def errors(deviations: Tensor) -> Tensor:
        """Return what the scale of greatest likelihood follows from the mean of."""

    @staticmethod
    @abstractmethod
    def best_scale(mean_error: Tensor) -> Tensor:
        """Return the scale of greatest likelihood."""

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the location."""
        outputs = self.outputs(*context)
        if self.scale == "learned":
            # 0 until there was a first error.
            error = torch.where(self.running_error > 0, self.running_error, 1.0)
            scale = self.best_scale(error) * self.log_ratio.exp()
            location, scale = outputs, scale.clamp(min=self.min_scale)
        else:
            location, scale = location_and(self, "scale", outputs, self.event_dim, self.min_scale)
        return self.family(location, scale).to_event(self.event_dim)

    @torch.no_grad()
    def update_running_statistics(self, p_x: Distribution, x: Tensor, mask: Tensor | None) -> None:
        """Let the running error of a learned scale follow x, as a step of training observes it.

        Args:
            p_x: p(x | z), what `forward` returned.
            x: the data, broadcast against it.
            mask: True where x is observed; everywhere if None.
        """
        if self.scale != "learned":
            return
        elements: Any = p_x
        errors = self.errors(x - elements.base_dist.loc).to(self.running_error.dtype)
        if mask is None:
            error = errors.mean()
        else:
            mask = mask.expand_as(errors)
            error = torch.where(mask, errors, 0.0).sum() / mask.sum()
        before = self.running_error
        moved = torch.where(before > 0, before.lerp(error, MOMENTUM), error)
        least = torch.finfo(before.dtype).tiny
        # Without a single entry observed there is nothing to follow.
        self.running_error.copy_(torch.where(error.isnan(), before, moved.clamp(min=least)))


class Normal(_Located):
    r"""p(x | z) = Π_d N(x_d; net(z)_d, σ²), for real-valued data.

    With a fixed scale, -log p(x | z) = ‖x - net(z)‖² / (2σ²) + D log σ + D/2 log 2π: the
    "squared-error VAE" of many tutorials is this likelihood with σ = 1/√2, where the squared error
    has weight 1 against the KL (σ = 1 gives it weight 1/2). Choosing σ is choosing that weight.

    ``scale="learned"`` takes the choice away, and the closed form in the place of Adam's walk to
    it. Under an ELBO the best σ² is the mean squared error of all elements at draws z of the guide
    (Rybkin et al. 2021, equation 5). σ = e^s √m, with two tensors: the buffer ``running_error`` m,
    which every call of the model in training mode, with gradients, moves to the squared error
    there, m ← 0.9 m + 0.1 ‖x - net(z)‖² / D, from the first on; and the parameter ``log_ratio``
    s, 0 at the start, which is learned by its gradient. At the best σ of an ELBO s stays near 0.
    Other bounds weight draws (by importance, or by the probability of an enumerated label) and
    have another best σ, which s makes up for. σ does not depend on the batch that it scores, as m
    moves after; in evaluation mode nothing moves, and what is saved, σ too, is all there is.
    Before the first such call σ = 1.

    Source: Rybkin et al. 2021, "Simple and effective VAE training with calibrated decoders" (arXiv
    2006.13202), for the closed form.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns the mean. With
            ``scale="per-pixel"`` it returns twice the channels: the mean, then the unconstrained
            scale, split on the first event dimension (the last dimension for flat data).
        scale: the standard deviation σ: a number (fixed); ``"learned"``, one for all pixels as
            above; ``"parameter"``, one for all pixels that is learned by its gradient alone, σ =
            softplus(``unconstrained_scale``) + min_scale, 1 at the start; or ``"per-pixel"``,
            softplus(.) + min_scale of a function of z.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
        min_scale: the least that a σ that is not fixed may be. A density grows without end where σ
            goes to 0, as for pixels that are the same in all data; half a grey level is a good
            bound.

    Raises:
        ValueError: if ``scale`` is none of these, or ``min_scale`` is no positive number or given
            for a fixed scale.

    Example:
        >>> from ppl_vae import nets
        >>> Normal(nets.MLP(10, 64), "learned")(torch.zeros(5, 10)).batch_shape
        torch.Size([5])
    """

    family = dist.Normal

    @staticmethod
    def errors(deviations: Tensor) -> Tensor:
        """Return squares: σ² = E[(x - μ)²]."""
        return deviations.square()

    @staticmethod
    def best_scale(mean_error: Tensor) -> Tensor:
        """Return σ, the root of the mean squared error."""
        return mean_error.sqrt()


class Laplace(_Located):
    """p(x | z) = Π_d exp(-|x_d - net(z)_d| / b) / 2b, for real-valued data with outliers.

    The absolute error is to this likelihood what the squared error is to `Normal`. Its mean and
    median are net(z); its standard deviation is √2 b.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns the location, and with
            ``scale="per-pixel"`` the unconstrained scale after it, as in `Normal`.
        scale: b: a number (fixed), ``"learned"``, ``"parameter"`` or ``"per-pixel"``, as in
            `Normal`; the best b is the mean absolute error.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
        min_scale: the least that a b that is not fixed may be.

    Raises:
        ValueError: as for `Normal`.
    """

    family = dist.Laplace

    @staticmethod
    def errors(deviations: Tensor) -> Tensor:
        """Return absolute values: b = E|x - μ|."""
        return deviations.abs()

    @staticmethod
    def best_scale(mean_error: Tensor) -> Tensor:
        """Return b, the mean absolute error."""
        return mean_error
