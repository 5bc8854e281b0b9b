"""Columns of positive values, with and without zeros."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_vae.columns.family import (
    MIN_SCALE,
    ColumnFamily,
    ScaledFamily,
    Source,
    initial,
    second_parameter,
)
from ppl_vae.distributions.gamma import Gamma as _Gamma
from ppl_vae.distributions.hurdle import HurdleLogNormal as _HurdleLogNormal
from ppl_vae.distributions.scale import positive_scale
from ppl_vae.errors import number


class LogNormal(ScaledFamily):
    """log x = log_mean + log_std u with u ~ N(l, σ²), for x > 0.

    l from the network, σ = softplus(.) + min_scale. The density is that of x:
    log p(x) = log N(log x; ...) - log x.

    Args:
        log_mean, log_std: by which log x is standardised, such as those of the observed values.
        scale: σ is a function of z (``"network"``), or one number for all rows (``"learned"``).
        min_scale: the least σ, in units of log_std.
    """

    constants = ("log_mean", "log_std")
    log_mean: int | float
    log_std: int | float
    filling = 1.0

    def __init__(
        self,
        log_mean: int | float = 0.0,
        log_std: int | float = 1.0,
        scale: Source = "network",
        *,
        min_scale: int | float = MIN_SCALE,
    ) -> None:
        super().__init__()
        self._declare(log_mean=log_mean, log_std=log_std)
        self._declare_scale(scale, min_scale)

    @property
    def support(self) -> Constraint:
        """Positive numbers."""
        return constraints.positive

    def distribution(
        self,
        outputs: Tensor,
        *,
        log_mean: Tensor,
        log_std: Tensor,
        unconstrained_scale: Tensor | None = None,
    ) -> Any:
        """Return p(x | outputs)."""
        scale = second_parameter(outputs, unconstrained_scale, self.min_scale)
        return dist.LogNormal(log_mean + log_std * outputs[..., 0], log_std * scale)

    def statistics(self, p: Any) -> Tensor:
        """Return E[log x]."""
        return p.loc.unsqueeze(-1)

    def estimate(self, statistics: Tensor) -> Tensor:
        """Return exp E[log x], the geometric mean: the mean follows the tail, and overflows."""
        return statistics[..., 0].exp()

    def features(self, x: Tensor, *, log_mean: Tensor, log_std: Tensor) -> Tensor:
        """Return (log x - log_mean) / log_std."""
        return ((safe_log(x) - log_mean) / log_std).unsqueeze(-1)


class HurdleLogNormal(LogNormal):
    """x = 0 with a probability from the network, else log-normal as `LogNormal`: for x ≥ 0.

    For amounts that many rows do not have at all. Its log-"density" is a log-probability at 0 and a
    log-density elsewhere, see :class:`ppl_vae.distributions.hurdle.HurdleLogNormal`.

    Args:
        log_mean, log_std: by which log x is standardised where x > 0.
        scale: σ is a function of z (``"network"``), or one number for all rows (``"learned"``).
        min_scale: the least σ, in units of log_std.
    """

    num_features = 2
    filling = 0.0

    @property
    def num_outputs(self) -> int:
        """Those of `LogNormal`, and the log-odds of x > 0."""
        return super().num_outputs + 1

    @property
    def support(self) -> Constraint:
        """Zero and positive numbers."""
        return constraints.nonnegative

    def distribution(
        self,
        outputs: Tensor,
        *,
        log_mean: Tensor,
        log_std: Tensor,
        unconstrained_scale: Tensor | None = None,
    ) -> Any:
        """Return p(x | outputs)."""
        scale = second_parameter(outputs, unconstrained_scale, self.min_scale)
        loc = log_mean + log_std * outputs[..., 0]
        return _HurdleLogNormal(outputs[..., -1], loc, log_std * scale)

    def statistics(self, p: Any) -> Tensor:
        """Return P(x > 0) and E[1(x > 0) log x]."""
        positive = p.logit.sigmoid()
        return torch.stack([positive, positive * p.loc], dim=-1)

    def estimate(self, statistics: Tensor) -> Tensor:
        """Return P(x > 0) times the geometric mean of positive x."""
        positive, logs = statistics.unbind(-1)
        tiny = torch.finfo(positive.dtype).tiny  # P(x > 0) may underflow
        return positive * (logs / positive.clamp(min=tiny)).exp()

    def features(self, x: Tensor, *, log_mean: Tensor, log_std: Tensor) -> Tensor:
        """Return whether x > 0, and (log x - log_mean) / log_std, or 0 for x = 0."""
        is_positive = x > 0
        logs = (torch.where(is_positive, x, 1.0).log() - log_mean) / log_std
        return torch.stack([is_positive.to(x), torch.where(is_positive, logs, 0.0)], dim=-1)


class Gamma(ColumnFamily):
    """x ~ Gamma with mean m = mean · softplus(.) / log 2 and shape α = softplus(.) + 1e-4, x > 0.

    Its standard deviation is m / √α. A learned α is exp(.).

    Args:
        mean: a typical value, such as the mean of the observed ones.
        shape: α is a function of z (``"network"``), or one number for all rows (``"learned"``).
    """

    constants = ("mean",)
    shape: Source
    filling = 1.0

    def __init__(self, mean: int | float = 1.0, shape: Source = "network") -> None:
        super().__init__()
        self.mean = number(type(self).__name__, "mean", mean, above=0)
        self._source("shape", shape)

    @property
    def num_outputs(self) -> int:
        """A mean, and a shape unless it is learned."""
        return 1 + (self.shape == "network")

    @property
    def support(self) -> Constraint:
        """Positive numbers."""
        return constraints.positive

    def learned(self) -> dict[str, Tensor]:
        """Return the logarithm of the shape, if it is learned."""
        return {"log_shape": initial()} if self.shape == "learned" else {}

    def distribution(
        self, outputs: Tensor, *, mean: Tensor, log_shape: Tensor | None = None
    ) -> Any:
        """Return p(x | outputs)."""
        learned = None if log_shape is None else log_shape.exp()
        shape = positive_scale(outputs[..., 1]) if learned is None else learned
        return _Gamma(shape, mean=relative_mean(outputs[..., 0], mean))

    def features(self, x: Tensor, *, mean: Tensor) -> Tensor:
        """Return log(x / mean)."""
        return (safe_log(x) - mean.log()).unsqueeze(-1)


def safe_log(x: Tensor) -> Tensor:
    """Return log x, finite for x ≤ 0 too, which pairs try networks with."""
    return x.clamp(min=torch.finfo(x.dtype).tiny).log()


def relative_mean(outputs: Tensor, mean: Tensor) -> Tensor:
    """Return a positive mean that is ``mean`` for an output of 0."""
    return mean * (positive_scale(outputs) / positive_scale(outputs.new_zeros(())))
