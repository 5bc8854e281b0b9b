"""The negative binomial distribution, accurate for large counts of failures."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

STIRLING_FROM = 20.0
"""From here on Stirling's series with four terms is right to the rounding of float64."""


class NegativeBinomial(dist.NegativeBinomial):
    r"""torch's negative binomial with a log-mass that keeps its precision for large total counts.

    log P(x) = log Γ(r + x) - log Γ(r) - log Γ(x + 1) + r log(1 - p) + x log p, with mean
    μ = r p / (1 - p). For large r the first two terms are huge and nearly cancel: torch's float32
    is off by 0.005 nats per element at r = 10⁴ and by whole nats at 10⁶, where the distribution is
    the Poisson's. With Stirling's series the same is, for r from 20 on,

        x log μ - x + (r + x) log[1 + (x - μ) / (r + μ)] - log(1 + x / r) / 2 + c(r + x) - c(r)
        - log Γ(x + 1),    c(t) = 1 / 12t - 1 / 360t³ + 1 / 1260t⁵ - 1 / 1680t⁷,

    in which nothing is large that the result is not.

    Args:
        total_count: r, positive, any real number.
        logits: log[p / (1 - p)] = log μ - log r.
        validate_args: check parameters and values; None is torch's global setting.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), in nats."""
        direct = super().log_prob(value)  # validates
        large = self.total_count >= STIRLING_FROM
        r = torch.where(large, self.total_count, STIRLING_FROM)
        # Where r is replaced, so is μ, lest the branch that is not taken overflow.
        log_mean = torch.where(large, self.logits, 0.0) + r.log()
        mean = log_mean.exp()
        ratio = (r + value) / (r + mean)
        log_ratio = torch.where(
            ratio < 0.5,
            ratio.log(),
            ((value - mean) / (r + mean)).clamp(min=-0.5).log1p(),
        )
        stirling = (
            value * log_mean
            - value
            + (r + value) * log_ratio
            - 0.5 * torch.log1p(value / r)
            + _series(r + value)
            - _series(r)
            - torch.lgamma(value + 1)
        )
        return torch.where(large, stirling, direct)


def _series(t: Tensor) -> Tensor:
    """Return log Γ(t) less the leading terms of Stirling's formula, for large t."""
    inverse = 1 / t
    square = inverse.square()
    return inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
