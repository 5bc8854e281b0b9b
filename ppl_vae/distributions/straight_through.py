r"""Discrete distributions whose draws have the gradient of a relaxation.

A draw is exact: with Gumbel noise g the category argmax_c (l_c + g_c) has the probability
softmax(l)_c (Maddison et al. 2017, arXiv 1611.00712, section 3.1), and with logistic noise g,
l + g > 0 has the probability sigmoid(l). Its gradient is that of

    softmax((l + g) / τ),    sigmoid((l + g) / τ),

the same with the step replaced by a slope, at temperature τ: the straight-through Gumbel-softmax
estimator of Jang et al. 2017 (arXiv 1611.01144), section 2.2. ``log_prob`` is the discrete mass, so
that bounds are those of the discrete model, at any temperature. The gradient is biased: for small τ
less, but with a larger variance.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ppl_vae.distributions.bernoulli import CertainBernoulli
from ppl_vae.distributions.one_hot import OneHotCodes, gumbel, one_hot_of_largest, uniform

Temperature = float | int | Tensor
"""τ above 0: a number, or a 0-dimensional tensor."""


class StraightThroughBernoulli(dist.Bernoulli):
    """P(z = 1) = sigmoid(logits), with the gradient of a binary concrete draw.

    Args:
        temperature: τ.
        logits: of any shape, the batch shape.
        validate_args: check logits and values; None is torch's global setting.

    Example:
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> StraightThroughBernoulli(0.5, logits).rsample().sum().backward()
        >>> logits.grad.shape
        torch.Size([3])
    """

    has_rsample = True

    def __init__(
        self, temperature: Temperature, logits: Tensor, validate_args: bool | None = None
    ) -> None:
        self.temperature = temperature
        super().__init__(logits=logits, validate_args=validate_args)

    def at_temperature(self, temperature: Temperature) -> StraightThroughBernoulli:
        """Return the same distribution with another gradient."""
        new = self.expand(self.batch_shape)
        new.temperature = temperature
        return new

    def expand(
        self, batch_shape: Sequence[int], _instance: StraightThroughBernoulli | None = None
    ) -> StraightThroughBernoulli:
        """Return the distribution with its batch shape broadcast."""
        new = self._get_checked_instance(StraightThroughBernoulli, _instance)
        new.temperature = self.temperature
        return super().expand(torch.Size(batch_shape), new)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), in nats."""
        if is_validation_enabled() and self.logits.isinf().any():
            return CertainBernoulli(self.logits, self._validate_args).log_prob(value)
        return super().log_prob(value)

    def entropy(self) -> Tensor:
        """Return -Σ_z P(z) log P(z), in nats."""
        if is_validation_enabled() and self.logits.isinf().any():
            return CertainBernoulli(self.logits, self._validate_args).entropy()
        return super().entropy()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw zeros and ones, with a gradient in the logits."""
        u = uniform(self.logits, sample_shape)
        perturbed = self.logits + (u.log() - (-u).log1p())
        relaxed = (perturbed / self.temperature).sigmoid()
        return straight_through((perturbed > 0).to(relaxed.dtype), relaxed)


class StraightThroughOneHotCodes(OneHotCodes):
    """One-hot codes in a row, with the gradient of a Gumbel-softmax draw.

    Args:
        temperature: τ.
        logits: shape ``(..., D, C)``, see :class:`OneHotCodes`.
        validate_args: check logits and values; None is torch's global setting.
    """

    has_rsample = True

    def __init__(
        self, temperature: Temperature, logits: Tensor, validate_args: bool | None = None
    ) -> None:
        self.temperature = temperature
        super().__init__(logits, validate_args=validate_args)

    def at_temperature(self, temperature: Temperature) -> StraightThroughOneHotCodes:
        """Return the same distribution with another gradient."""
        new = self.expand(self.batch_shape)
        new.temperature = temperature
        return new

    def expand(
        self, batch_shape: Sequence[int], _instance: StraightThroughOneHotCodes | None = None
    ) -> StraightThroughOneHotCodes:
        """Return the distribution with its batch shape broadcast."""
        new = self._get_checked_instance(StraightThroughOneHotCodes, _instance)
        new.temperature = self.temperature
        super().expand(batch_shape, new)
        return new

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw codes, with a gradient in the logits."""
        perturbed = self.logits + gumbel(self.logits, sample_shape)
        relaxed = (perturbed / self.temperature).softmax(-1)
        return straight_through(one_hot_of_largest(perturbed), relaxed).flatten(-2)


def straight_through(value: Tensor, like: Tensor) -> Tensor:
    """Return a value, exactly, with the gradient of another."""
    return value.detach() + (like - like.detach())
