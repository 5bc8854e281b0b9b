"""Likelihoods of counts 0, 1, 2, ...: Poisson and negative binomial."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.distributions import counts
from ppl_vae.distributions.scale import positive_scale
from ppl_vae.likelihoods.elementwise import (
    Elementwise,
    Positive,
    WithPositiveParameter,
    outputs_per_element,
    shape_of_outputs,
)


class Poisson(Elementwise):
    """p(x | z) = Π_d μ_d^{x_d} e^{-μ_d} / x_d!, with μ = softplus(net(z)) + 1e-4, for counts.

    The link is softplus, not the exponential, so that the gradient of the mean is at most 1 and a
    single large output does not end a training run. Means in the hundreds then need outputs in the
    hundreds.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns the unconstrained mean.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
    """

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the mean."""
        return counts.Poisson(positive_scale(self.outputs(*context))).to_event(self.event_dim)


class NegativeBinomial(WithPositiveParameter):
    r"""p(x | z) = Π_d NB(x_d; μ_d, r), for overdispersed counts.

    NB(x; μ, r) = Γ(r + x) / (Γ(r) x!) [r / (r + μ)]^r [μ / (r + μ)]^x has mean μ and variance
    μ + μ² / r: a Poisson whose rate is drawn from a gamma distribution of shape r, and a Poisson as
    r → ∞. μ = softplus(net(z)) + 1e-4, as in `Poisson`. In Pyro's terms the total count is r and
    the logits are log μ - log r, but the mass is computed from μ itself.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns the unconstrained mean.
            With ``dispersion="per-pixel"`` it returns twice the channels: the mean, then the
            unconstrained dispersion, split on the first event dimension (the last for flat data).
        dispersion: r (a small r is much dispersion): a number (fixed), ``"learned"`` (one for all
            elements, initially 1), or ``"per-pixel"`` (a function of z). Learned dispersions are
            softplus(.) + 1e-4.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
    """

    def __init__(
        self, net: nn.Module, dispersion: Positive = "learned", *, event_dim: int = 1
    ) -> None:
        super().__init__(net, event_dim=event_dim)
        self.declare_positive("dispersion", dispersion)

    @staticmethod
    def net_shape(
        event_shape: Sequence[int], *, dispersion: Positive = "learned"
    ) -> tuple[int, ...]:
        """Return the shape of the network's output per datum: means, dispersions if per pixel."""
        return shape_of_outputs(event_shape, outputs_per_element(dispersion))

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the mean."""
        unconstrained, r = self.location_and_positive("dispersion", self.outputs(*context))
        p = counts.NegativeBinomial(r, mean=positive_scale(unconstrained))
        return p.to_event(self.event_dim)
