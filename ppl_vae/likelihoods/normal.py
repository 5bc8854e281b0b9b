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
from ppl_vae.errors import describe
from ppl_vae.likelihoods.elementwise import (
    WithPositiveParameter,
    is_word,
    outputs_per_element,
    shape_of_outputs,
    split_outputs,
)

Scale: TypeAlias = int | float | Literal["learned", "parameter", "per-pixel"]
"""A fixed number, one learned for all elements, in one of two ways, or one from the network."""

MOMENTUM = 0.1
"""Weight of a training step's error in the running mean, which averages the last ten or so."""


class _LocationScale(WithPositiveParameter):
    """A location-scale family: the network returns the location.

    A ``"learned"`` scale is σ = e^s σ₀ with the maximum-likelihood scale σ₀ of the running mean
    error (a buffer, see `update_running_statistics`) and a parameter s.
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
        super().__init__(net, event_dim=event_dim)
        owner = type(self).__name__
        self.min_scale = checked_min_scale(owner, min_scale)
        if is_word(scale, "learned"):
            self.scale = scale
            self.log_ratio = nn.Parameter(torch.zeros(()))
            self.register_buffer("running_error", torch.zeros(()))
            return
        self.declare_positive("scale", scale, ("learned", "parameter", "per-pixel"))
        if not isinstance(scale, str) and min_scale != MIN_SCALE:
            fix = f"and scale is fixed, {describe(scale)}; leave min_scale out"
            raise ValueError(f"{owner}: min_scale bounds learned scales, {fix}")

    @staticmethod
    def net_shape(event_shape: Sequence[int], *, scale: Scale = 1.0) -> tuple[int, ...]:
        """Return the shape of the network's output per datum: locations, scales if per pixel."""
        return shape_of_outputs(event_shape, outputs_per_element(scale))

    @staticmethod
    @abstractmethod
    def errors(deviations: Tensor) -> Tensor:
        """Return the errors whose mean determines the maximum-likelihood scale."""

    @staticmethod
    @abstractmethod
    def maximum_likelihood_scale(mean_error: Tensor) -> Tensor:
        """Return the maximum-likelihood scale."""

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the location."""
        outputs = self.outputs(*context)
        if self.scale == "learned":
            # 0 before the first update.
            error = torch.where(self.running_error > 0, self.running_error, 1.0)
            scale = self.maximum_likelihood_scale(error) * self.log_ratio.exp()
            location, scale = outputs, scale.clamp(min=self.min_scale)
        elif self.scale == "per-pixel":
            meaning = "mean and unconstrained scale (with scale='per-pixel')"
            both = split_outputs(type(self).__name__, outputs, self.event_dim, 2, meaning)
            location, unconstrained = both.unbind(-1)
            scale = self.positive("scale", unconstrained, self.min_scale)
        else:
            location, scale = outputs, self.positive("scale", None)
            if self.scale == "parameter":
                scale = scale + self.min_scale
        return self.family(location, scale).to_event(self.event_dim)

    @torch.no_grad()
    def update_running_statistics(self, p_x: Distribution, x: Tensor, mask: Tensor | None) -> None:
        """Move the running error of a learned scale towards the error of x.

        Args:
            p_x: p(x | z), as returned by `forward`.
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
        # NaN if no entry is observed.
        self.running_error.copy_(torch.where(error.isnan(), before, moved.clamp(min=least)))


class Normal(_LocationScale):
    r"""p(x | z) = Π_d N(x_d; net(z)_d, σ²), for real-valued data.

    With a fixed scale, -log p(x | z) = ‖x - net(z)‖² / (2σ²) + D log σ + D/2 log 2π: the
    "squared-error VAE" of many tutorials is this likelihood with σ = 1/√2, where the squared error
    has weight 1 against the KL (σ = 1 gives it weight 1/2). Choosing σ is choosing that weight.

    ``scale="learned"`` makes that choice by the closed form instead of by gradient descent. Under
    an ELBO the optimal σ² is the mean squared error of all elements at draws z of the guide (Rybkin
    et al. 2021, equation 5). σ = e^s √m with two tensors: the buffer ``running_error`` m, updated
    by every call of the model in training mode with gradients enabled, m ← 0.9 m + 0.1
    ‖x - net(z)‖² / D (the first call sets it); and the parameter ``log_ratio`` s, initially 0 and
    learned by its gradient. At the optimum of an ELBO s stays near 0. Other bounds weight draws (by
    importance, or by the probability of an enumerated label) and have another optimal σ, for which
    s compensates. A batch is scored before it updates m, so that σ does not depend on it; in
    evaluation mode m is constant. Before the first update σ = 1.

    Source: Rybkin et al. 2021, "Simple and effective VAE training with calibrated decoders" (arXiv
    2006.13202), for the closed form.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns the mean. With
            ``scale="per-pixel"`` it returns twice the channels: the mean, then the unconstrained
            scale, split on the first event dimension (the last dimension for flat data).
        scale: the standard deviation σ: a number (fixed); ``"learned"``, one for all pixels as
            above; ``"parameter"``, one for all pixels learned by its gradient alone, σ =
            exp(``log_scale``) + min_scale, with a log_scale that is initially 0; or
            ``"per-pixel"``, softplus(.) + min_scale of a function of z.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
        min_scale: lower bound of a σ that is not fixed. A density is unbounded as σ → 0, as at
            pixels that are the same in all data; half a grey level is a good bound.

    Raises:
        ValueError: if ``scale`` is none of these, or ``min_scale`` is not a positive number, or
            given for a fixed scale.

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
    def maximum_likelihood_scale(mean_error: Tensor) -> Tensor:
        """Return σ, the root of the mean squared error."""
        return mean_error.sqrt()


class Laplace(_LocationScale):
    """p(x | z) = Π_d exp(-|x_d - net(z)_d| / b) / 2b, for real-valued data with outliers.

    Its -log p(x | z) is the absolute error, as the squared error is that of `Normal`. Mean and
    median are net(z), the standard deviation is √2 b.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns the location, and with
            ``scale="per-pixel"`` the unconstrained scale after it, as in `Normal`.
        scale: b: a number (fixed), ``"learned"``, ``"parameter"`` or ``"per-pixel"``, as in
            `Normal`; the maximum-likelihood b is the mean absolute error.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
        min_scale: lower bound of a b that is not fixed.

    Raises:
        ValueError: as for `Normal`.
    """

    family = dist.Laplace

    @staticmethod
    def errors(deviations: Tensor) -> Tensor:
        """Return absolute values: b = E|x - μ|."""
        return deviations.abs()

    @staticmethod
    def maximum_likelihood_scale(mean_error: Tensor) -> Tensor:
        """Return b, the mean absolute error."""
        return mean_error
