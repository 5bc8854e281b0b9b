"""Poisson and negative binomial distributions, zero-inflated too, accurate for large counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

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


class ZeroInflatedNegativeBinomial(dist.TorchDistribution):
    r"""0 with probability π, else a negative binomial: for counts with more zeros than it has.

    P(x) = π [x = 0] + (1 - π) NB(x; μ, r), with mean (1 - π) μ and variance
    (1 - π) (μ + μ² / r + π μ²). At 0 the logarithm is log-sum-exp of log π and
    log (1 - π) + log NB(0; μ, r), finite for any logit of π.

    Args:
        total_count: r, positive, any real number.
        mean: μ of the negative binomial, not negative.
        gate_logits: log[π / (1 - π)].
        validate_args: check parameters and values; None is torch's global setting.
    """

    arg_constraints: ClassVar = {"gate_logits": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(
        self,
        total_count: Tensor | float,
        *,
        mean: Tensor,
        gate_logits: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        base = NegativeBinomial(total_count, mean=mean, validate_args=validate_args)
        batch_shape = torch.broadcast_shapes(base.batch_shape, gate_logits.shape)
        self.base = base if base.batch_shape == batch_shape else base.expand(batch_shape)
        self.gate_logits = gate_logits
        super().__init__(batch_shape, validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: ZeroInflatedNegativeBinomial | None = None
    ) -> ZeroInflatedNegativeBinomial:
        """Return the distribution with its batch shape broadcast."""
        new: Any = self._get_checked_instance(ZeroInflatedNegativeBinomial, _instance)
        new.base = self.base.expand(batch_shape)
        new.gate_logits = self.gate_logits.expand(batch_shape)
        super(ZeroInflatedNegativeBinomial, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """E[x] = (1 - π) μ."""
        return torch.sigmoid(-self.gate_logits) * self.base.mean

    @property
    def variance(self) -> Tensor:
        """The variance (1 - π) (μ + μ² / r + π μ²)."""
        gate = torch.sigmoid(self.gate_logits)
        spread = self.base.variance + gate * self.base.mean.square()
        return torch.sigmoid(-self.gate_logits) * spread

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw counts, shape ``(*sample_shape, *batch_shape)``."""
        with torch.no_grad():
            x = self.base.sample(torch.Size(sample_shape))
            return torch.where(torch.rand_like(x) < torch.sigmoid(self.gate_logits), 0.0, x)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), in nats, at least in float32."""
        if self._validate_args:
            self._validate_sample(value)
        log_p = self.base.log_prob(value)
        logits = self.gate_logits.to(log_p.dtype)
        log_p = F.logsigmoid(-logits) + log_p
        return torch.where(value == 0, torch.logaddexp(F.logsigmoid(logits), log_p), log_p)
