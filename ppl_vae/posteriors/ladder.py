"""The posterior of a layer of the ladder VAE."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import NeuralConditional
from ppl_vae.distributions.normal import diagonal_normal
from ppl_vae.distributions.scale import MIN_SCALE, checked_min_scale
from ppl_vae.errors import describe, positive_int


class PrecisionWeighted(NeuralConditional):
    r"""q(z_l | x, z_{l+1}) ∝ N(z_l; μ̂(x), σ̂(x)²) p(z_l | z_{l+1}): evidence times prior.

    With p(z_l | z_{l+1}) = N(μ_p, σ_p²), the model's own, the product is normal:
    1/σ² = 1/σ̂² + 1/σ_p² and μ = σ² (μ̂/σ̂² + μ_p/σ_p²).

    Source: Sønderby et al. 2016, "Ladder variational autoencoders" (arXiv 1602.02282), equations
    11 to 13.

    Args:
        net: any module ``(..., D) -> (..., 2 * latent_dim)`` on x: μ̂, then the unconstrained scale,
            σ̂ = softplus(.) + min_scale.
        conditional: the model's own p(z_l | z_{l+1}), the same object, such as
            ``priors.ConditionalNormal``.
        min_scale: lower bound of σ̂; σ < σ̂.
    """

    def __init__(
        self, net: nn.Module, conditional: nn.Module, *, min_scale: int | float = MIN_SCALE
    ) -> None:
        super().__init__(net)
        self.min_scale = checked_min_scale("PrecisionWeighted", min_scale)
        if not isinstance(conditional, nn.Module):
            expected = "the model's p(z_l | z_l+1), a module"
            got = describe(conditional)
            raise TypeError(f"PrecisionWeighted: conditional must be {expected}, got {got}")
        self.conditional = conditional

    @staticmethod
    def net_features(latent_dim: int) -> int:
        """Return the number of features of the network's output: location and scale."""
        return 2 * positive_int("PrecisionWeighted", "latent_dim", latent_dim)

    def forward(self, x: Tensor, above: Tensor) -> Distribution:
        """Return q(z_l | x, z_{l+1}), batch shape ``(...)``, event shape ``(latent_dim,)``."""
        p = self.conditional(above)
        normal = getattr(p, "base_dist", p)
        if not isinstance(normal, torch.distributions.Normal):
            expected = "return a diagonal normal, as priors.ConditionalNormal does"
            raise TypeError(f"PrecisionWeighted: conditional must {expected}, got {p}")
        evidence = diagonal_normal("PrecisionWeighted", self.outputs(x), self.min_scale).base_dist
        latent_dim = normal.loc.shape[-1]
        if evidence.loc.shape[-1] != latent_dim:
            raise ValueError(
                f"PrecisionWeighted: net must return 2 * latent_dim = {2 * latent_dim} features, "
                f"as conditional is over {latent_dim} dimensions, got "
                f"{2 * evidence.loc.shape[-1]}; change the width of its output"
            )
        precision_x = evidence.scale.square().reciprocal()
        precision_p = normal.scale.square().reciprocal()
        variance = (precision_x + precision_p).reciprocal()
        loc = variance * (precision_x * evidence.loc + precision_p * normal.loc)
        return dist.Normal(loc, variance.sqrt()).to_event(1)
