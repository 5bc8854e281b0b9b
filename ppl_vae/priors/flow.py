"""Normalising-flow priors."""

from __future__ import annotations

from collections.abc import Sequence

from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.distributions import Distribution

from ppl_vae.conditional import ConditionalDistribution, check_finite, concatenate
from ppl_vae.distributions.flow import Constructor, FlowDistribution, build
from ppl_vae.errors import positive_int, sizes


class Flow(ConditionalDistribution):
    r"""p(z) = N(f(z); 0, I) \|det ∂f/∂z\|, with a learned invertible f: a normalising flow.

    =============  ================================  ==========  ==========  =====================
    kind           f                                 density     sampling    source
    =============  ================================  ==========  ==========  =====================
    ``"spline"``   couplings by rational-quadratic   1           2           Durkan et al. 2019
                   splines on [-5, 5]                                        (arXiv 1906.04032)
    ``"realnvp"``  affine couplings                  1           2           Dinh et al. 2017
                                                                             (arXiv 1605.08803)
    ``"maf"``      autoregressive affine             1           latent_dim  Papamakarios et al.
                                                                             2017 (1705.07057)
    ``"iaf"``      the inverse of ``"maf"``          latent_dim  1           Kingma et al. 2016
                                                                             (arXiv 1606.04934)
    =============  ================================  ==========  ==========  =====================

    The numbers count evaluations of each transformation's network. Training a VAE needs the density
    alone, generation needs sampling. The flows are zuko's.

    Initially f is near the identity and p(z) near N(0, I): the last layer of each network is scaled
    by 0.01. A spline is the identity outside its box, so that the tails are those of N(0, I) and
    latents are drawn into the box; ``functools.partial(ppl_vae.distributions.flow.spline,
    bound=8.0)`` widens it. In one dimension all affine kinds are normal distributions.

    Args:
        latent_dim: number of latent dimensions.
        kind: a name in the table, or a constructor of zuko, such as ``zuko.flows.NAF``, called as
            ``kind(features, context, transforms=..., hidden_features=...)``, whose initialisation
            is left as it is; its density must be over the reals, not circular.
        transforms: number of transformations that f is composed of.
        hidden: widths of the hidden layers of each transformation's network; there is a warning if
            they are too narrow for each dimension to see all before it.

    Raises:
        NotImplementedError: from the distribution's ``mean``, which has no closed form.

    Example:
        >>> Flow(10, "maf")().log_prob(torch.zeros(3, 10)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        latent_dim: int,
        kind: str | Constructor = "spline",
        *,
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        self.latent_dim = positive_int("Flow", "latent_dim", latent_dim)
        self.kind = kind
        self.transforms = positive_int("Flow", "transforms", transforms)
        self.hidden = sizes("Flow", "hidden", hidden)
        self.flow = build("Flow", kind, self.latent_dim, 0, self.transforms, self.hidden)

    def forward(self) -> Distribution:
        """Return p(z), batch shape ``()``, event shape ``(latent_dim,)``."""
        if is_validation_enabled():  # no distribution checks a flow's parameters
            check_finite(self)
        return FlowDistribution(self.flow())


class ConditionalFlow(ConditionalDistribution):
    r"""p(z | c) = N(f(z; c); 0, I) \|det ∂f/∂z\|: a :class:`Flow` with a context.

    Each transformation's network takes the context, such as a label y for p(z | y), besides z.

    Source: Papamakarios et al. 2017 (arXiv 1705.07057), section 3.4, for flows with a context;
    Sohn et al. 2015 (NeurIPS) for a prior given the condition.

    Args:
        latent_dim: number of latent dimensions.
        context_features: number of features of all contexts together.
        kind: as for :class:`Flow`.
        transforms: number of transformations that f is composed of.
        hidden: widths of the hidden layers of each transformation's network; there is a warning if
            they are too narrow for each dimension to see all before it.

    Raises:
        ValueError: when called, if the context has another number of features.

    Example:
        >>> ConditionalFlow(10, 3)(torch.eye(3)).batch_shape
        torch.Size([3])
    """

    def __init__(
        self,
        latent_dim: int,
        context_features: int,
        kind: str | Constructor = "spline",
        *,
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        name = "ConditionalFlow"
        self.latent_dim = positive_int(name, "latent_dim", latent_dim)
        fix = "priors.Flow takes no context"
        self.context_features = positive_int(name, "context_features", context_features, fix)
        self.kind = kind
        self.transforms = positive_int(name, "transforms", transforms)
        self.hidden = sizes(name, "hidden", hidden)
        self.flow = build(
            name, kind, self.latent_dim, self.context_features, self.transforms, self.hidden
        )

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(z | context), batch shape ``(...)``, event shape ``(latent_dim,)``."""
        joined = concatenate(*context)
        if joined.shape[-1] != self.context_features:
            got = ", ".join(str(tuple(c.shape)) for c in context)
            raise ValueError(
                f"ConditionalFlow: expected context_features={self.context_features} features, got "
                f"{joined.shape[-1]} in contexts of shape {got}"
            )
        if is_validation_enabled():
            check_finite(self, *context)
        return FlowDistribution(self.flow(joined))
