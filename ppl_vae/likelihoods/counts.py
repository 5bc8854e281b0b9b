"""Likelihoods of counts 0, 1, 2, ...: Poisson and negative binomial."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import NeuralConditional
from ppl_vae.distributions import negative_binomial, poisson
from ppl_vae.distributions.scale import positive_scale
from ppl_vae.errors import positive_int
from ppl_vae.likelihoods.parameters import (
    Positive,
    WithPositive,
    count_with,
    declare,
    location_and,
    plain,
    widened,
)


class Poisson(NeuralConditional):
    """p(x | z) = Π_d μ_d^{x_d} e^{-μ_d} / x_d!, with μ = softplus(net(z)) + 1e-4, for counts.

    The link is softplus and not the exponential: the gradient of the mean stays at most 1, so that
    one large output does not end a training run. The mean of a count in the hundreds is then an
    output in the hundreds.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns the unconstrained mean.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
    """

    def __init__(self, net: nn.Module, *, event_dim: int = 1) -> None:
        super().__init__(net)
        self.event_dim = positive_int("Poisson", "event_dim", event_dim)

    @staticmethod
    def net_shape(event_shape: Sequence[int]) -> tuple[int, ...]:
        """Return what the network must return per datum: one mean per element."""
        return widened(event_shape, 1)

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the mean."""
        mean = positive_scale(self.outputs(*context))
        return poisson.Poisson(mean).to_event(self.event_dim)


class NegativeBinomial(WithPositive):
    r"""p(x | z) = Π_d NB(x_d; μ_d, r), for counts that vary more than a Poisson's.

    NB(x; μ, r) = Γ(r + x) / (Γ(r) x!) [r / (r + μ)]^r [μ / (r + μ)]^x has mean μ and variance
    μ + μ² / r: a Poisson whose rate is drawn from a gamma distribution of shape r, and a Poisson
    itself as r grows. μ = softplus(net(z)) + 1e-4, as in `Poisson`; to Pyro it is total count r and
    logits log μ - log r, but the mass is computed from μ itself.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns the unconstrained mean.
            With ``dispersion="per-pixel"`` it returns twice the channels: the mean, then the
            unconstrained dispersion, split on the first event dimension (the last for flat data).
        dispersion: r (small r is much dispersion): a number (fixed), ``"learned"`` (one for all
            elements, 1 at the start), or ``"per-pixel"`` (a function of z). Learned dispersions are
            softplus(.) + 1e-4.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
    """

    def __init__(
        self, net: nn.Module, dispersion: Positive = "learned", *, event_dim: int = 1
    ) -> None:
        super().__init__(net)
        self.event_dim = positive_int("NegativeBinomial", "event_dim", event_dim)
        self.dispersion = plain(dispersion)
        declare(self, "dispersion", dispersion)

    @staticmethod
    def net_shape(
        event_shape: Sequence[int], *, dispersion: Positive = "learned"
    ) -> tuple[int, ...]:
        """Return what the network must return per datum: means, and dispersions if per pixel."""
        return widened(event_shape, count_with(dispersion))

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the mean."""
        outputs = self.outputs(*context)
        unconstrained, r = location_and(self, "dispersion", outputs, self.event_dim)
        p = negative_binomial.NegativeBinomial(r, mean=positive_scale(unconstrained))
        return p.to_event(self.event_dim)
