"""The Bernoulli likelihood of binary data."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import NeuralConditional
from ppl_vae.errors import positive_int
from ppl_vae.likelihoods.parameters import widened


class Bernoulli(NeuralConditional):
    """p(x | z) = Π_d Bernoulli(x_d; sigmoid(net(z)_d)), for data that are exactly 0 or 1.

    Grey values under a Bernoulli are no likelihood (the "soft-target" loss does not normalise):
    binarise the data, see :mod:`ppl_vae.data`, or take `ContinuousBernoulli`, which does.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns logits.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
    """

    def __init__(self, net: nn.Module, *, event_dim: int = 1) -> None:
        super().__init__(net)
        self.event_dim = positive_int("Bernoulli", "event_dim", event_dim)

    @staticmethod
    def net_shape(event_shape: Sequence[int]) -> tuple[int, ...]:
        """Return what the network must return per datum: one logit per element."""
        return widened(event_shape, 1)

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the logits."""
        return dist.Bernoulli(logits=self.outputs(*context)).to_event(self.event_dim)
