"""The Gaussian-mixture posterior."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import NeuralConditional
from ppl_vae.distributions.mixture import MixtureOfDiagonalNormals
from ppl_vae.distributions.scale import MIN_SCALE, checked_min_scale, positive_scale
from ppl_vae.errors import positive_int


class GaussianMixture(NeuralConditional):
    r"""q(z | x) = Σ_k w_k(x) N(z; μ_k(x), diag σ_k(x)²), for posteriors of several modes.

    Draws are reparameterised by implicit differentiation, so that the mixture goes with every
    estimator and every gradient; see
    :class:`ppl_vae.distributions.mixture.MixtureOfDiagonalNormals`. The gradient's variance grows
    with the distance between the modes. A network whose last layer is zero gives components that
    are all the same and stay so.

    Source: Figurnov et al. 2018 (arXiv 1805.08498), section 4; the family: Nalisnick et al. 2016
    ("Approximate inference for deep latent Gaussian mixtures").

    Args:
        net: any module ``(..., D) -> (..., K (2 d + 1))`` for ``latent_dim`` d and K components,
            see :meth:`net_features`: the K locations μ_k, one after the other; the K unconstrained
            scales s_k, with σ = softplus(s) + min_scale; and the K logits of the weights.
        components: number of components K.
        min_scale: the least that σ may be.

    Raises:
        ValueError: if the number of features the network returns is that of no d.

    Example:
        >>> from ppl_vae import nets
        >>> features = GaussianMixture.net_features(10, components=3)
        >>> GaussianMixture(nets.MLP(784, features), components=3)(torch.zeros(5, 784)).mean.shape
        torch.Size([5, 10])
    """

    def __init__(
        self, net: nn.Module, components: int, *, min_scale: int | float = MIN_SCALE
    ) -> None:
        super().__init__(net)
        self.min_scale = checked_min_scale("GaussianMixture", min_scale)
        self.components = positive_int(
            "GaussianMixture", "components", components, "one component is DiagonalNormal"
        )

    @staticmethod
    def net_features(latent_dim: int, *, components: int) -> int:
        """Return how many features the network must return: K (2 d + 1)."""
        d = positive_int("GaussianMixture", "latent_dim", latent_dim)
        return positive_int("GaussianMixture", "components", components) * (2 * d + 1)

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(z | context), batch shape ``(...)``, event shape ``(latent_dim,)``."""
        outputs = self.outputs(*context)
        k = self.components
        of_each, rest = divmod(outputs.shape[-1], k)
        if rest or of_each < 3 or of_each % 2 == 0:
            raise ValueError(
                f"GaussianMixture: net must return components * (2 * latent_dim + 1) features, "
                f"with {k} components {3 * k}, {5 * k}, {7 * k}, ..., got an output of shape "
                f"{tuple(outputs.shape)}"
            )
        d = of_each // 2
        loc, unconstrained_scale, logits = outputs.split([k * d, k * d, k], dim=-1)
        return MixtureOfDiagonalNormals(
            logits,
            loc.unflatten(-1, (k, d)),
            positive_scale(unconstrained_scale.unflatten(-1, (k, d)), self.min_scale),
        )
