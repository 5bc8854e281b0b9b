"""Posteriors of a discrete label."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from ppl_vae.conditional import NeuralConditional
from ppl_vae.errors import positive_int


class Categorical(NeuralConditional):
    """q(y | x) = softmax(net(x)), the classifier of a semi-supervised VAE.

    Args:
        net: any module ``(..., D) -> (..., num_classes)`` that returns logits.
    """

    @staticmethod
    def net_features(num_classes: int) -> int:
        """Return the number of features of the network's output: ``num_classes``."""
        return positive_int("Categorical", "num_classes", num_classes)

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(y | context), batch shape ``(...)``, values 0 to ``num_classes - 1``."""
        return dist.Categorical(logits=self.outputs(*context))
