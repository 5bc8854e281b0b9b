"""Normal posteriors."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from ppl_vae.conditional import NeuralConditional
from ppl_vae.distributions.scale import positive_scale


class DiagonalNormal(NeuralConditional):
    """q(z | x) = N(z; μ(x), diag σ(x)²).

    Source: Kingma & Welling 2014 (arXiv 1312.6114), equation 9.

    Args:
        net: any module ``(..., D) -> (..., 2 * latent_dim)``: the location μ, then the
            unconstrained scale s, with σ = softplus(s) + 1e-4.

    Example:
        >>> from ppl_vae import nets
        >>> DiagonalNormal(nets.MLP(784, 2 * 10))(torch.zeros(5, 784)).batch_shape
        torch.Size([5])
    """

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(z | context), batch shape ``(...)``, event shape ``(latent_dim,)``."""
        outputs = self.outputs(*context)
        if outputs.shape[-1] % 2:
            raise ValueError(
                f"DiagonalNormal: net must return location and unconstrained scale, an even number "
                f"of features on the last dimension, got an output of shape {tuple(outputs.shape)}"
            )
        loc, unconstrained_scale = outputs.chunk(2, dim=-1)
        return dist.Normal(loc, positive_scale(unconstrained_scale)).to_event(1)
