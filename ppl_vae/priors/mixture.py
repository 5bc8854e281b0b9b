"""The Gaussian-mixture prior."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.conditional import ConditionalDistribution
from ppl_vae.distributions.mixture import Mixture
from ppl_vae.distributions.normal import unconstrained
from ppl_vae.distributions.scale import positive_scale
from ppl_vae.errors import describe, flag, number, positive_int, seed_of
from ppl_vae.random_state import numpy_generator


class GaussianMixture(ConditionalDistribution):
    r"""p(z) = Σ_c w_c N(z; μ_c, diag σ_c²), with learned means and scales.

    The log-density is a single logsumexp over components of the *event* log-density,
    log p(z) = logsumexp_c [ log w_c + Σ_d log N(z_d; μ_cd, σ_cd²) ].

    Source: Jiang et al. 2017 (arXiv 1611.05148); Stanford CS236, problem set 2, for many components
    with uniform weights.

    Args:
        latent_dim: number of latent dimensions.
        components: number of mixture components.
        learn_weights: learn the weights w; uniform if not.
        spread: initial standard deviation of the means. :meth:`initialise_from` initialises all
            parameters from latents instead.

    Parameters: ``loc`` μ, shape ``(components, latent_dim)``, initially drawn from
    N(0, spread² I); ``unconstrained_scale``, with σ = softplus(.) + 1e-4, initially 1; ``logits``
    of the weights, shape ``(components,)``, initially 0 (a buffer unless learned).

    Example:
        >>> GaussianMixture(10, components=500)().log_prob(torch.zeros(3, 10)).shape
        torch.Size([3])
    """

    logits: Tensor

    def __init__(
        self,
        latent_dim: int,
        components: int,
        *,
        learn_weights: bool = False,
        spread: int | float = 1.0,
    ) -> None:
        super().__init__()
        owner = "GaussianMixture"
        latent_dim = positive_int(owner, "latent_dim", latent_dim)
        fix = "one component is DiagonalNormal"
        components = positive_int(owner, "components", components, fix)
        self.learn_weights = flag(owner, "learn_weights", learn_weights)
        fix = "components with equal means stay equal"
        self.spread = number(owner, "spread", spread, above=0, fix=fix)
        self.loc = nn.Parameter(self.spread * torch.randn(components, latent_dim))
        self.unconstrained_scale = nn.Parameter(unconstrained(torch.ones(components, latent_dim)))
        logits = torch.zeros(components)
        if self.learn_weights:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions."""
        return self.loc.shape[1]

    @property
    def components(self) -> int:
        """The number of mixture components."""
        return self.loc.shape[0]

    def forward(self) -> Mixture:
        """Return p(z), batch shape ``()``, event shape ``(latent_dim,)``."""
        loc, scale = self.loc, positive_scale(self.unconstrained_scale)
        return Mixture(
            self.logits,
            dist.Normal(loc, scale).to_event(1),
            lambda k: dist.Normal(loc[k], scale[k]).to_event(1),
        )

    def responsibilities(
        self, z: Float[Tensor, "*batch latent"]
    ) -> Float[Tensor, "*batch components"]:
        """Return p(c | z) = w_c N(z; μ_c, σ_c²) / p(z), shape ``(..., components)``."""
        return self().responsibilities(z)

    @torch.no_grad()
    def initialise_from(self, z: Float[Tensor, "n latent"], *, seed: int = 0) -> None:
        r"""Set the means to the k-means of latents, the scales to the spread of the clusters.

        σ_cd² = (n_c v_cd + v_d) / (n_c + 1), where n_c and v_cd are the size and the variances of a
        cluster and v_d is the pooled variance within clusters, so that a cluster of one has a
        scale, too; at least 1 % of the latents' standard deviation and 1e-3. Learned weights become
        (n_c + 1) / (N + components). Torch's random state is unchanged.

        Args:
            z: N latents, shape ``(N, latent_dim)``, N at least ``components``, such as posterior
                means of training data.
            seed: of the k-means++ initialisation.

        Raises:
            ValueError: if z has another shape, is not finite or has fewer distinct rows than there
                are components; nothing has changed then.
        """
        from sklearn.cluster import KMeans  # slow to import

        owner, k = "GaussianMixture.initialise_from", self.components
        seed = seed_of(owner, seed)
        if not isinstance(z, Tensor):
            raise TypeError(f"{owner}: z must be a tensor, got {describe(z)}")
        if z.dim() != 2 or z.shape[1] != self.latent_dim or len(z) < k:
            shape = f"(N, {self.latent_dim}) with N at least {k}, the number of components"
            raise ValueError(f"{owner}: z must have shape {shape}, got {describe(z)}")
        if not z.isfinite().all():
            raise ValueError(f"{owner}: z must be finite")
        if (distinct := len(z.unique(dim=0))) < k:
            raise ValueError(
                f"{owner}: z must have at least {k} distinct rows, one per component, got "
                f"{distinct}; give more latents or use fewer components"
            )
        z = z.detach().to(self.loc)
        k_means = KMeans(k, n_init=1, max_iter=100, random_state=numpy_generator(seed))
        found = k_means.fit(z.cpu().numpy())
        label = torch.from_numpy(found.labels_).to(z.device, torch.long)
        loc = torch.from_numpy(found.cluster_centers_).to(z)
        n = torch.bincount(label, minlength=k).to(z).unsqueeze(-1)
        squares = torch.zeros_like(loc).index_add(0, label, (z - loc[label]).square())
        variance = (squares + squares.sum(0) / len(z)) / (n + 1)
        floor = (0.01 * z.std(0, correction=0)).clamp(min=1e-3)
        self.loc.copy_(loc)
        self.unconstrained_scale.copy_(unconstrained(torch.maximum(variance.sqrt(), floor)))
        if self.learn_weights:
            self.logits.copy_(((n + 1) / (len(z) + k)).log().squeeze(-1))
