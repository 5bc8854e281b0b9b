"""Poisson and negative binomial distributions, accurate for large counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.distributions.saddle_point import (
    broadcast_floats,
    log_gamma_increment,
    negative_binomial_deviance,
    poisson_deviance,
    stirling_remainder,
)


class Poisson(dist.Poisson):
    r"""torch's Poisson distribution with a log-mass that is accurate for large counts.

    log P(x) = x log μ - μ - log x! is -D(x, μ) - g(x), see
    :mod:`ppl_vae.distributions.saddle_point`; torch's form is off by 0.3 nats at x = μ = 10⁶ in
    float32, and by nats from 10⁷ on.

    Args:
        rate: μ, not negative.
        validate_args: check rates and values; None is torch's global setting.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), in nats, at least in float32."""
        if self._validate_args:
            self._validate_sample(value)
        x, mean = broadcast_floats(value, self.rate)
        return -poisson_deviance(x, mean) - stirling_remainder(x)


class NegativeBinomial(dist.NegativeBinomial):
    r"""torch's negative binomial with a log-mass that is accurate for large counts and r.

    log P(x) = log Γ(r + x) - log Γ(r) - log Γ(x + 1) + r log(1 - p) + x log p, with mean
    μ = r p / (1 - p), is -D(x; μ, r) - g(x) + h(r + x) - h(r), see
    :mod:`ppl_vae.distributions.saddle_point`. torch's form is off by nats in float32 for counts
    or r of 10⁶ and more, where for large r the distribution is nearly Poisson.

    Args:
        total_count: r, positive, any real number.
        probs: p; give exactly one of probs, logits and mean.
        logits: log[p / (1 - p)] = log μ - log r. In float32 they carry few digits of a large μ.
        mean: μ, not negative.
        validate_args: check parameters and values; None is torch's global setting.
    """

    def __init__(
        self,
        total_count: Tensor | float,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
        *,
        mean: Tensor | None = None,
    ) -> None:
        if (probs is None) + (logits is None) + (mean is None) != 2:
            raise ValueError("NegativeBinomial: give exactly one of probs, logits and mean")
        self._mean = mean
        if mean is not None:
            total_count = torch.as_tensor(total_count, dtype=mean.dtype, device=mean.device)
            logits = mean.log() - total_count.log()
        super().__init__(total_count, probs, logits, validate_args=validate_args)
        # Not expanded: terms of r alone are then computed once, not per element.
        self._r = total_count if isinstance(total_count, Tensor) else self.total_count

    def expand(
        self, batch_shape: Sequence[int], _instance: NegativeBinomial | None = None
    ) -> NegativeBinomial:
        """Return the distribution with its batch shape broadcast."""
        new: Any = self._get_checked_instance(NegativeBinomial, _instance)
        new._r = self._r
        new._mean = None if self._mean is None else self._mean.expand(batch_shape)
        return super().expand(batch_shape, new)

    @property
    def mean(self) -> Tensor:
        """E[x] = μ."""
        return super().mean if self._mean is None else self._mean.expand(self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), in nats, at least in float32."""
        if self._validate_args:
            self._validate_sample(value)
        x, mean, r = broadcast_floats(value, self.mean, self.total_count)
        gain = log_gamma_increment(self._r.to(x.dtype), x) - stirling_remainder(x)
        return gain - negative_binomial_deviance(x, mean, r)
