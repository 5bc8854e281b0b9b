"""Normal priors: standard, learned, or given a condition."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import ConditionalDistribution, NeuralConditional
from ppl_vae.distributions.normal import cholesky_factor, diagonal_normal, unconstrained
from ppl_vae.distributions.scale import MIN_SCALE, checked_min_scale, positive_scale
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


class DiagonalNormal(ConditionalDistribution):
    """p(z) = N(z; μ, diag σ²) with learned location and scale, initially N(0, I).

    A decoder can shift and rescale its input itself, so that this prior adds to N(0, I) only where
    the decoder is fixed, shared or regularised. The KL from a normal posterior has a closed form.

    Args:
        latent_dim: number of latent dimensions.

    Parameters: ``loc`` μ and ``unconstrained_scale`` s, with σ = softplus(s) + 1e-4, both of shape
    ``(latent_dim,)``.

    Example:
        >>> DiagonalNormal(10)().event_shape
        torch.Size([10])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = positive_int("DiagonalNormal", "latent_dim", latent_dim)
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.unconstrained_scale = nn.Parameter(unconstrained(torch.ones(latent_dim)))

    def forward(self) -> Distribution:
        """Return p(z), batch shape ``()``, event shape ``(latent_dim,)``."""
        return dist.Normal(self.loc, positive_scale(self.unconstrained_scale)).to_event(1)


class FullRankNormal(ConditionalDistribution):
    """p(z) = N(z; μ, L Lᵀ) with learned location and Cholesky factor, initially N(0, I).

    The KL from a normal posterior has a closed form.

    Args:
        latent_dim: number of latent dimensions D.

    Parameters: ``loc`` μ and ``unconstrained_scale`` s, with L_ii = softplus(s_i) + 1e-4, of shape
    ``(D,)``; ``below_diagonal`` a, with L_ij = L_ii a_ij / √D for j < i, row after row, of shape
    ``(D (D - 1) / 2,)``.

    Example:
        >>> FullRankNormal(3)().covariance_matrix.diagonal()
        tensor([1., 1., 1.], grad_fn=<DiagonalBackward0>)
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = positive_int("FullRankNormal", "latent_dim", latent_dim)
        d = self.latent_dim
        self.loc = nn.Parameter(torch.zeros(d))
        self.unconstrained_scale = nn.Parameter(unconstrained(torch.ones(d)))
        self.below_diagonal = nn.Parameter(torch.zeros(d * (d - 1) // 2))

    def forward(self) -> Distribution:
        """Return p(z), batch shape ``()``, event shape ``(latent_dim,)``."""
        scale_tril = cholesky_factor(self.unconstrained_scale, self.below_diagonal)
        return dist.MultivariateNormal(self.loc, scale_tril=scale_tril)


class ConditionalNormal(NeuralConditional):
    """p(z | c) = N(z; μ(c), diag σ(c)²), for a label, a condition or the latent of the layer above.

    With c one-hot of ``num_classes`` and the network ``MLP(num_classes, 2 * latent_dim,
    hidden=())`` this is one learned normal per class.

    Source: the prior network of Sohn et al. 2015 (NeurIPS, "Learning structured output
    representation using deep conditional generative models").

    Args:
        net: any module ``(..., C) -> (..., 2 * latent_dim)``: the location μ, then the
            unconstrained scale s, with σ = softplus(s) + min_scale.
        min_scale: lower bound of σ.

    Example:
        >>> from ppl_vae import nets
        >>> prior = ConditionalNormal(nets.MLP(3, ConditionalNormal.net_features(10), hidden=()))
        >>> prior(torch.eye(3)).batch_shape
        torch.Size([3])
    """

    def __init__(self, net: nn.Module, *, min_scale: int | float = MIN_SCALE) -> None:
        super().__init__(net)
        self.min_scale = checked_min_scale("ConditionalNormal", min_scale)

    @staticmethod
    def net_features(latent_dim: int) -> int:
        """Return the number of features of the network's output: ``2 * latent_dim``."""
        return 2 * positive_int("ConditionalNormal", "latent_dim", latent_dim)

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(z | context), batch shape ``(...)``, event shape ``(latent_dim,)``."""
        return diagonal_normal("ConditionalNormal", self.outputs(*context), self.min_scale)
