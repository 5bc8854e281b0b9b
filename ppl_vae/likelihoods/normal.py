"""The normal likelihood of real-valued data."""

from __future__ import annotations

import math
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import NeuralConditional
from ppl_vae.distributions.scale import inverse_softplus, positive_scale
from ppl_vae.errors import describe, positive_int


class Normal(NeuralConditional):
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

    _fixed_scale: Tensor

    def __init__(
        self,
        net: nn.Module,
        scale: int | float | Literal["learned", "per-pixel"] = 1.0,
        *,
        event_dim: int = 1,
    ) -> None:
        super().__init__(net)
        self.event_dim = positive_int("Normal", "event_dim", event_dim)
        self.scale = scale
        if scale == "learned":
            self.unconstrained_scale = nn.Parameter(inverse_softplus(torch.ones(())))
        elif scale != "per-pixel" and not _is_positive(scale):
            raise ValueError(
                f"Normal: scale must be a positive number (fixed), 'learned' (one for all pixels) "
                f"or 'per-pixel' (from the network), got {describe(scale)}"
            )
        fixed = torch.tensor(1.0 if isinstance(scale, str) else float(scale))
        self.register_buffer("_fixed_scale", fixed, persistent=False)

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the mean."""
        mean, scale = self.outputs(*context), self._fixed_scale
        if self.scale == "per-pixel":
            if mean.shape[-self.event_dim] % 2:
                raise ValueError(
                    f"Normal: with scale='per-pixel' net must return mean and unconstrained scale, "
                    f"an even size of dimension {-self.event_dim}, got an output of shape "
                    f"{tuple(mean.shape)}"
                )
            mean, unconstrained_scale = mean.chunk(2, dim=-self.event_dim)
            scale = positive_scale(unconstrained_scale)
        elif self.scale == "learned":
            scale = positive_scale(self.unconstrained_scale)
        return dist.Normal(mean, scale).to_event(self.event_dim)


def _is_positive(scale: object) -> bool:
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        return False
    return 0 < scale < math.inf
