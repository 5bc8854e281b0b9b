"""Normalising-flow posteriors."""

from __future__ import annotations

from collections.abc import Sequence

from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import NeuralConditional, check_finite
from ppl_vae.distributions.flow import Constructor, build, transformed_normal
from ppl_vae.distributions.scale import MIN_SCALE, checked_min_scale, positive_scale
from ppl_vae.errors import positive_int, sizes


class Flow(NeuralConditional):
    r"""q(z | x): a diagonal normal N(μ(x), diag σ(x)²) transformed by invertible functions.

    z = g(μ(x) + σ(x) ε; h(x)), ε ~ N(0, I), with density
    log q(z | x) = log N(g⁻¹(z); μ, σ²) - log \|det ∂g/∂(μ + σε)\|.

    ``kind="iaf"`` is the inverse autoregressive flow: drawing z with its density, all that an ELBO
    needs, takes one evaluation of each transformation's network. The density of any other z takes
    ``latent_dim``, and is needed by estimators that score a draw under detached parameters
    (``"dreg"``, ``"stl"``, ``"wake"``). ``"spline"``, couplings by splines, takes at most two in
    both directions; it is the identity outside [-5, 5], where the posterior stays a diagonal
    normal.

    Initially g is near the identity: the last layer of each network is scaled by 0.01.

    Source: Rezende & Mohamed 2015 (arXiv 1505.05770), section 4, for flows as posteriors; Kingma et
    al. 2016 (arXiv 1606.04934), equations 7 to 11, for ``"iaf"``; Durkan et al. 2019 (arXiv
    1906.04032) for ``"spline"``.

    Args:
        net: any module ``(..., D) -> (..., 2 * latent_dim + context_features)``: the location μ,
            then the unconstrained scale s, with σ = softplus(s) + min_scale, then the context h of
            the transformations.
        latent_dim: number of latent dimensions.
        kind: ``"iaf"``, ``"spline"``, ``"realnvp"`` or ``"maf"`` (which is slow to sample), or a
            constructor of zuko, called as ``kind(features, context, transforms=...,
            hidden_features=...)``; g⁻¹ is its transformation.
        context_features: features of h.
        transforms: number of transformations that g is composed of.
        hidden: widths of the hidden layers of each transformation's network; there is a warning if
            they are too narrow for each dimension to see all before it.
        min_scale: lower bound of σ.

    Raises:
        ValueError: when called, if the network returns another number of features.
        NotImplementedError: from the distribution's ``mean``, which has no closed form.

    Example:
        >>> from ppl_vae import nets
        >>> posterior = Flow(nets.MLP(784, Flow.net_features(10)), 10)
        >>> posterior(torch.zeros(5, 784)).batch_shape
        torch.Size([5])
    """

    def __init__(
        self,
        net: nn.Module,
        latent_dim: int,
        kind: str | Constructor = "iaf",
        *,
        context_features: int = 32,
        transforms: int = 2,
        hidden: Sequence[int] = (64, 64),
        min_scale: int | float = MIN_SCALE,
    ) -> None:
        super().__init__(net)
        self.latent_dim = positive_int("Flow", "latent_dim", latent_dim)
        self.kind = kind
        self.context_features = positive_int("Flow", "context_features", context_features)
        self.transforms = positive_int("Flow", "transforms", transforms)
        self.hidden = sizes("Flow", "hidden", hidden)
        self.min_scale = checked_min_scale("Flow", min_scale)
        # Without the flow's own base, which is not used and would be in the state.
        flow = build(
            "Flow", kind, self.latent_dim, self.context_features, self.transforms, self.hidden
        )
        self.transform = flow.get_submodule("transform")

    @staticmethod
    def net_features(latent_dim: int, *, context_features: int = 32) -> int:
        """Return the number of features of the network's output: location, scale and context."""
        d = positive_int("Flow", "latent_dim", latent_dim)
        return 2 * d + positive_int("Flow", "context_features", context_features)

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(z | context), batch shape ``(...)``, event shape ``(latent_dim,)``."""
        outputs = self.outputs(*context)
        widths = [self.latent_dim, self.latent_dim, self.context_features]
        if outputs.shape[-1] != sum(widths):
            raise ValueError(
                f"Flow: net must return 2 * latent_dim + context_features = {sum(widths)} features "
                f"for latent_dim={self.latent_dim} and context_features={self.context_features}, "
                f"got an output of shape {tuple(outputs.shape)}; Flow.net_features gives the number"
            )
        if is_validation_enabled():  # no distribution checks the transformations
            check_finite(self, *context)
        loc, unconstrained_scale, features = outputs.split(widths, dim=-1)
        scale = positive_scale(unconstrained_scale, self.min_scale)
        return transformed_normal(self.transform(features), loc, scale)
