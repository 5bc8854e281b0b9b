"""The Gaussian-mixture prior."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import ConditionalDistribution
from ppl_vae.distributions.scale import inverse_softplus, positive_scale
from ppl_vae.errors import positive_int


class GaussianMixture(ConditionalDistribution):
    r"""p(z) = Σ_c w_c N(z; μ_c, diag σ_c²), with learned means and scales.

    The log-density is one logsumexp over components of the *event* log-density,
    log p(z) = logsumexp_c [ log w_c + Σ_d log N(z_d; μ_cd, σ_cd²) ], computed in the direct form
    ((z - μ)/σ)², which loses nothing to cancellation in float32.

    Source: Jiang et al. 2017 (arXiv 1611.05148) for the mixture prior; Stanford CS236, problem set
    2, for the case of many components with uniform weights.

    Args:
        latent_dim: number of latent dimensions.
        components: number of mixture components.
        learn_weights: learn the weights w; uniform if not.

    Parameters: ``loc`` μ, shape ``(components, latent_dim)``, drawn from N(0, I) at the start;
    ``unconstrained_scale``, with σ = softplus(.) + 1e-4, σ = 1 at the start; ``logits`` of the
    weights, shape ``(components,)``, zeros at the start.

    Example:
        >>> GaussianMixture(10, components=500)().log_prob(torch.zeros(3, 10)).shape
        torch.Size([3])
    """

    logits: Tensor

    def __init__(self, latent_dim: int, components: int, *, learn_weights: bool = False) -> None:
        super().__init__()
        positive_int("GaussianMixture", "latent_dim", latent_dim)
        positive_int("GaussianMixture", "components", components, "one component is one normal")
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.unconstrained_scale = nn.Parameter(
            inverse_softplus(torch.ones(components, latent_dim))
        )
        logits = torch.zeros(components)
        if learn_weights:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)

    @property
    def components(self) -> int:
        """The number of mixture components."""
        return self.loc.shape[0]

    def forward(self) -> Distribution:
        """Return p(z), batch shape ``()``, event shape ``(latent_dim,)``."""
        scale = positive_scale(self.unconstrained_scale)
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.logits),
            dist.Normal(self.loc, scale).to_event(1),
        )

    def responsibilities(
        self, z: Float[Tensor, "*batch latent"]
    ) -> Float[Tensor, "*batch components"]:
        """Return p(c | z) = w_c N(z; μ_c, σ_c²) / p(z), shape ``(..., components)``."""
        prior = self()
        log_joint = prior.component_distribution.log_prob(z.unsqueeze(-2))
        return torch.softmax(log_joint + prior.mixture_distribution.logits, dim=-1)
