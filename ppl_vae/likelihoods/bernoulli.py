"""Bernoulli likelihoods: of binary data, and the continuous one of grey values."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from ppl_vae.distributions import continuous_bernoulli
from ppl_vae.distributions.bernoulli import bernoulli
from ppl_vae.likelihoods.elementwise import Elementwise


class Bernoulli(Elementwise):
    """p(x | z) = Π_d Bernoulli(x_d; sigmoid(net(z)_d)), for data that are exactly 0 or 1.

    A Bernoulli of grey values is not a likelihood (the "soft-target" loss is not normalised):
    binarise the data, see :mod:`ppl_vae.data`, or use `ContinuousBernoulli`.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns logits.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
    """

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the logits."""
        return bernoulli(self.outputs(*context)).to_event(self.event_dim)


class ContinuousBernoulli(Elementwise):
    r"""p(x | z) = Π_d C(λ_d) sigmoid(λ_d)^{x_d} (1 - sigmoid(λ_d))^{1 - x_d}, for x in [0, 1].

    With λ = net(z) this is the cross-entropy of grey values that many programs minimise, plus the
    constant C(λ) = λ / tanh(λ / 2) (2 at λ = 0) that they omit: it is a density, and its ELBO a
    bound. The mean is 1 / (1 - e^{-λ}) - 1 / λ, not sigmoid(λ).

    Source: Loaiza-Ganem & Cunningham 2019 (arXiv 1907.06845). torch's distribution of this name
    does not integrate to 1 at large logits; see `ppl_vae.distributions.continuous_bernoulli`.

    A density of integers k / 255 is not a probability of those integers, and grows without bound
    where they concentrate at black and white: to compare it with a mass of grey levels, dequantise
    the data (`ppl_vae.data.Dataset.dequantised`).

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

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the logits."""
        p = continuous_bernoulli.ContinuousBernoulli(self.outputs(*context))
        return p.to_event(self.event_dim)
