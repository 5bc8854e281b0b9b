"""The standard normal prior."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch.distributions import Distribution

from ppl_vae.conditional import ConditionalDistribution
from ppl_vae.errors import positive_int


class StandardNormal(ConditionalDistribution):
    """p(z) = N(z; 0, I) on ``latent_dim`` dimensions, without parameters.

    Source: Kingma & Welling 2014 (arXiv 1312.6114), section 3.

    Args:
        latent_dim: number of latent dimensions.

    Example:
        >>> StandardNormal(10)().event_shape
        torch.Size([10])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = positive_int("StandardNormal", "latent_dim", latent_dim)
        # Constants are buffers, so that the prior follows the pair's device and dtype.
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> Distribution:
        """Return p(z), batch shape ``()``, event shape ``(latent_dim,)``."""
        return dist.Normal(self.loc, self.scale).to_event(1)
