"""Normal posteriors."""

from __future__ import annotations

import math

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import NeuralConditional
from ppl_vae.distributions.normal import cholesky_factor, diagonal_normal
from ppl_vae.distributions.scale import MIN_SCALE, checked_min_scale, positive_scale
from ppl_vae.errors import positive_int


class DiagonalNormal(NeuralConditional):
    """q(z | x) = N(z; μ(x), diag σ(x)²).

    Source: Kingma & Welling 2014 (arXiv 1312.6114), equation 9.

    Args:
        net: any module ``(..., D) -> (..., 2 * latent_dim)``: the location μ, then the
            unconstrained scale s, with σ = softplus(s) + min_scale.
        min_scale: lower bound of σ.

    Example:
        >>> from ppl_vae import nets
        >>> DiagonalNormal(nets.MLP(784, 2 * 10))(torch.zeros(5, 784)).batch_shape
        torch.Size([5])
    """

    def __init__(self, net: nn.Module, *, min_scale: int | float = MIN_SCALE) -> None:
        super().__init__(net)
        self.min_scale = checked_min_scale("DiagonalNormal", min_scale)

    @staticmethod
    def net_features(latent_dim: int) -> int:
        """Return the number of features of the network's output: ``2 * latent_dim``."""
        return 2 * positive_int("DiagonalNormal", "latent_dim", latent_dim)

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(z | context), batch shape ``(...)``, event shape ``(latent_dim,)``."""
        return diagonal_normal("DiagonalNormal", self.outputs(*context), self.min_scale)


class FullRankNormal(NeuralConditional):
    r"""q(z | x) = N(z; μ(x), L(x) L(x)ᵀ), L lower triangular.

    Source: Kingma & Welling 2019 (arXiv 1906.02691), section 2.5.1.

    Args:
        net: any module ``(..., D) -> (..., d + d (d + 1) / 2)`` for ``latent_dim`` d, see
            :meth:`net_features`: the location μ; the unconstrained diagonal s, with
            L_ii = softplus(s_i) + min_scale; and row after row a, with L_ij = L_ii a_ij / √d for
            j < i. For a of unit size the standard deviations are about L_ii, and
            diag(L)⁻¹ L is well-conditioned for any d.
        min_scale: lower bound of L_ii.

    Raises:
        ValueError: if the network's output has an impossible number of features.

    Example:
        >>> from ppl_vae import nets
        >>> q = FullRankNormal(nets.MLP(784, FullRankNormal.net_features(10)))
        >>> q(torch.zeros(5, 784)).covariance_matrix.shape
        torch.Size([5, 10, 10])
    """

    def __init__(self, net: nn.Module, *, min_scale: int | float = MIN_SCALE) -> None:
        super().__init__(net)
        self.min_scale = checked_min_scale("FullRankNormal", min_scale)

    @staticmethod
    def net_features(latent_dim: int) -> int:
        """Return the number of features of the network's output: d + d (d + 1) / 2."""
        d = positive_int("FullRankNormal", "latent_dim", latent_dim)
        return d + d * (d + 1) // 2

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(z | context), batch shape ``(...)``, event shape ``(latent_dim,)``."""
        outputs = self.outputs(*context)
        features = outputs.shape[-1]
        # d² + 3 d - 2 features = 0
        d = (math.isqrt(9 + 8 * features) - 3) // 2
        if d < 1 or self.net_features(d) != features:
            near = (f"{self.net_features(n)} (d = {n})" for n in (max(d, 1), max(d, 1) + 1))
            raise ValueError(
                f"FullRankNormal: net must return d + d (d + 1) / 2 features for d latent "
                f"dimensions, such as {' or '.join(near)}, got shape {tuple(outputs.shape)}"
            )
        loc, diagonal, below = outputs.split([d, d, features - 2 * d], dim=-1)
        scale_tril = cholesky_factor(diagonal, below, self.min_scale)
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class LowRankNormal(NeuralConditional):
    r"""q(z | x) = N(z; μ(x), diag σ(x)² + W(x) W(x)ᵀ), W of ``rank`` columns.

    Between the diagonal and the full-rank normal: ``latent_dim * rank`` more features than the
    former.

    Source: Ong et al. 2018 (arXiv 1701.03208); Rezende et al. 2014 (arXiv 1401.4082) for the same
    form of the precision.

    Args:
        net: any module ``(..., D) -> (..., (2 + rank) * d)`` for ``latent_dim`` d, see
            :meth:`net_features`: the location μ; the unconstrained scale s, with
            σ = softplus(s) + min_scale; and row after row a, with W_ij = σ_i a_ij / √rank. For a
            of unit size the standard deviations are about σ, and nothing cancels in Woodbury's
            identity, however small σ is.
        rank: number of columns of W.
        min_scale: lower bound of σ.

    Raises:
        ValueError: if the network's number of features is not a multiple of ``2 + rank``.

    Example:
        >>> from ppl_vae import nets
        >>> q = LowRankNormal(nets.MLP(784, LowRankNormal.net_features(10, rank=2)), rank=2)
        >>> q(torch.zeros(5, 784)).batch_shape
        torch.Size([5])
    """

    def __init__(self, net: nn.Module, rank: int, *, min_scale: int | float = MIN_SCALE) -> None:
        super().__init__(net)
        self.min_scale = checked_min_scale("LowRankNormal", min_scale)
        self.rank = positive_int("LowRankNormal", "rank", rank, "DiagonalNormal has rank 0")

    @staticmethod
    def net_features(latent_dim: int, *, rank: int) -> int:
        """Return the number of features of the network's output: (2 + rank) d."""
        d = positive_int("LowRankNormal", "latent_dim", latent_dim)
        return (2 + positive_int("LowRankNormal", "rank", rank)) * d

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(z | context), batch shape ``(...)``, event shape ``(latent_dim,)``."""
        outputs = self.outputs(*context)
        d, rest = divmod(outputs.shape[-1], 2 + self.rank)
        if rest:
            got = f"an output of shape {tuple(outputs.shape)}"
            raise ValueError(
                f"LowRankNormal: net must return (2 + rank) * latent_dim features, a multiple of "
                f"{2 + self.rank} for rank {self.rank}, got {got}"
            )
        loc, unconstrained_scale, factor = outputs.split([d, d, d * self.rank], dim=-1)
        scale = positive_scale(unconstrained_scale, self.min_scale)
        factor = factor.unflatten(-1, (d, self.rank)) / math.sqrt(self.rank)
        return dist.LowRankMultivariateNormal(loc, scale.unsqueeze(-1) * factor, scale.square())
