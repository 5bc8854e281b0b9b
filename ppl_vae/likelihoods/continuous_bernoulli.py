"""The continuous Bernoulli likelihood of grey values."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import NeuralConditional
from ppl_vae.distributions import continuous_bernoulli
from ppl_vae.errors import positive_int
from ppl_vae.likelihoods.parameters import widened


class ContinuousBernoulli(NeuralConditional):
    r"""p(x | z) = Π_d C(λ_d) sigmoid(λ_d)^{x_d} (1 - sigmoid(λ_d))^{1 - x_d}, for x in [0, 1].

    With λ = net(z) it is the cross-entropy of grey values that many programs minimise, and the
    constant C(λ) = λ / tanh(λ / 2) (2 at λ = 0) that they leave out: it is a density, and its ELBO
    a bound. The mean is not sigmoid(λ) but 1 / (1 - e^{-λ}) - 1 / λ.

    Source: Loaiza-Ganem & Cunningham 2019 (arXiv 1907.06845). torch's distribution of this name
    does not integrate to 1 at large logits; see `ppl_vae.distributions.continuous_bernoulli`.

    A density of data that are integers k / 255 is no probability of those integers, and grows
    without bound where it is concentrated at black and white: for figures that can be compared with
    a mass of grey levels, dequantise the data (`ppl_vae.data.Dataset.dequantised`).

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns the logits λ.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.

    Example:
        >>> import torch
        >>> from ppl_vae import nets
        >>> p = ContinuousBernoulli(nets.MLP(10, 784))(torch.zeros(5, 10))
        >>> p.log_prob(torch.rand(5, 784)).shape
        torch.Size([5])
    """

    def __init__(self, net: nn.Module, *, event_dim: int = 1) -> None:
        super().__init__(net)
        self.event_dim = positive_int("ContinuousBernoulli", "event_dim", event_dim)

    @staticmethod
    def net_shape(event_shape: Sequence[int]) -> tuple[int, ...]:
        """Return what the network must return per datum: one logit per element."""
        return widened(event_shape, 1)

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the logits."""
        p = continuous_bernoulli.ContinuousBernoulli(self.outputs(*context))
        return p.to_event(self.event_dim)
