"""The Gaussian-mixture posterior."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import NeuralConditional
from ppl_vae.distributions.mixture import MixtureOfDiagonalNormals
from ppl_vae.distributions.scale import MIN_SCALE, checked_min_scale, positive_scale
from ppl_vae.errors import positive_int


class GaussianMixture(NeuralConditional):
    r"""q(z | x) = Σ_k w_k(x) N(z; μ_k(x), diag σ_k(x)²), for multimodal posteriors.

    Draws are reparameterised by implicit differentiation, so that the mixture works with every
    estimator and gradient; see :class:`ppl_vae.distributions.mixture.MixtureOfDiagonalNormals`. The
    gradient's variance grows with the distance between modes. If the network's last layer is
    initialised to zero, all components are equal and stay so.

    Source: Figurnov et al. 2018 (arXiv 1805.08498), section 4; the family: Nalisnick et al. 2016
    ("Approximate inference for deep latent Gaussian mixtures").

    Args:
        net: any module ``(..., D) -> (..., K (2 d + 1))`` for ``latent_dim`` d and K components,
            see :meth:`net_features`: the K locations μ_k, one after the other; the K unconstrained
            scales s_k, with σ = softplus(s) + min_scale; and the K logits of the weights.
        components: number of components K.
        min_scale: lower bound of σ.

    Raises:
        ValueError: if the network's output has an impossible number of features.

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
        fix = "one component is DiagonalNormal"
        self.components = positive_int("GaussianMixture", "components", components, fix)

    @staticmethod
    def net_features(latent_dim: int, *, components: int) -> int:
        """Return the number of features of the network's output: K (2 d + 1)."""
        d = positive_int("GaussianMixture", "latent_dim", latent_dim)
        return positive_int("GaussianMixture", "components", components) * (2 * d + 1)

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(z | context), batch shape ``(...)``, event shape ``(latent_dim,)``."""
        outputs = self.outputs(*context)
        k = self.components
        width, remainder = divmod(outputs.shape[-1], k)
        if remainder or width < 3 or width % 2 == 0:
            raise ValueError(
                f"GaussianMixture: net must return components * (2 * latent_dim + 1) features, "
                f"{3 * k}, {5 * k}, {7 * k}, ... for {k} components, got an output of shape "
                f"{tuple(outputs.shape)}"
            )
        d = width // 2
        loc, unconstrained_scale, logits = outputs.split([k * d, k * d, k], dim=-1)
        return MixtureOfDiagonalNormals(
            logits,
            loc.unflatten(-1, (k, d)),
            positive_scale(unconstrained_scale.unflatten(-1, (k, d)), self.min_scale),
        )
