"""Bernoullis whose logits may be infinite."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor


class CertainBernoulli(dist.Bernoulli):
    """A Bernoulli of logits that may be infinite: P(1) = sigmoid(logits) is then 0 or 1.

    log P is 0 or -∞ there, with gradient 0, where torch's x l - log(1 + e^l) is NaN. The entropy is
    0.

    Args:
        logits: of any shape, the batch shape; not NaN.
        validate_args: check logits and values; None is torch's global setting.

    Example:
        >>> CertainBernoulli(logits=torch.tensor([torch.inf, -torch.inf])).log_prob(torch.ones(2))
        tensor([0., -inf])
    """

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: CertainBernoulli | None = None
    ) -> CertainBernoulli:
        """Return the distribution with its batch shape broadcast."""
        new = self._get_checked_instance(CertainBernoulli, _instance)
        return super().expand(torch.Size(batch_shape), new)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), in nats."""
        infinite = self.logits.isinf()
        finite = self.logits.masked_fill(infinite, 0.0)
        log_p = dist.Bernoulli(logits=finite, validate_args=self._validate_args).log_prob(value)
        impossible = (value > 0.5) != (self.logits > 0)
        return log_p.masked_fill(infinite, 0.0).masked_fill(infinite & impossible, -math.inf)

    def entropy(self) -> Tensor:
        """Return -Σ_x P(x) log P(x), in nats."""
        infinite = self.logits.isinf()
        finite = self.logits.masked_fill(infinite, 0.0)
        entropy = dist.Bernoulli(logits=finite, validate_args=False).entropy()
        return entropy.masked_fill(infinite, 0.0)


def bernoulli(logits: Tensor, *, checks_values: bool = True) -> dist.Bernoulli:
    """Return torch's Bernoulli or, if validation is enabled and a logit is infinite, that above.

    The check takes the place of torch's own check of logits.
    """
    if not is_validation_enabled():
        return dist.Bernoulli(logits=logits, validate_args=None if checks_values else False)
    # A finite sum is of finite numbers, and one pass over memory.
    if not (logits.detach().sum().isfinite() or logits.isfinite().all()):
        return CertainBernoulli(logits, validate_args=None if checks_values else False)
    p = dist.Bernoulli(logits=logits, validate_args=False)
    p._validate_args = checks_values
    return p
