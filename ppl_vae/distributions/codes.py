"""Categories and levels as codes 0, 1, ..., in floating point like all data."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional as F


class Codes(dist.Categorical):
    """P(x = k) = softmax(logits)_k, k = 0, ..., C - 1: torch's categorical of floating-point codes.

    Args:
        logits: shape ``(..., C)``; the batch shape is ``(...)``.
        validate_args: check logits and values; None is torch's global setting.

    Example:
        >>> Codes(torch.zeros(4)).log_prob(torch.tensor(3.0)).exp()
        tensor(0.2500)
    """

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Codes | None = None) -> Codes:
        """Return the distribution with its batch shape broadcast."""
        return super().expand(batch_shape, self._get_checked_instance(Codes, _instance))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw codes."""
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        """E[x] = Σ_k k P(k), which means something only where codes are ordered."""
        return self.probs @ self._codes()

    @property
    def variance(self) -> Tensor:
        """Var[x]."""
        deviation = self._codes() - self.mean.unsqueeze(-1)
        return (self.probs * deviation.square()).sum(-1)

    def _codes(self) -> Tensor:
        count = self.logits.shape[-1]
        return torch.arange(count, dtype=self.logits.dtype, device=self.logits.device)


def cumulative_logits(location: Tensor, thresholds: Tensor) -> Tensor:
    r"""Return log P(x = k), k = 0, ..., L - 1, of the cumulative logit model, shape ``(..., L)``.

    P(x ≤ k) = sigmoid(θ_k - location), with increasing thresholds θ_0 < ... < θ_{L-2}. With
    a = θ_k - location and b = θ_{k-1} - location, sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b)
    (1 - e^{b - a}), which keeps its digits in both tails.

    Source: McCullagh 1980, "Regression models for ordinal data", equation 2.1.

    Args:
        location: shape ``(...)``.
        thresholds: increasing, shape ``(..., L - 1)``.

    Example:
        >>> cumulative_logits(torch.tensor(0.0), torch.tensor([-1.0, 1.0])).exp()
        tensor([0.2689, 0.4621, 0.2689])
    """
    distance = thresholds - location.unsqueeze(-1)
    below, above = F.logsigmoid(distance), F.logsigmoid(-distance)
    gaps = thresholds.diff(dim=-1)
    between = below[..., 1:] + above[..., :-1] + (-torch.expm1(-gaps)).log()
    return torch.cat([below[..., :1], between, above[..., -1:]], dim=-1)
