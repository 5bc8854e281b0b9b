"""The logit-normal distribution of a bounded value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_HERMITE = (_NODES, _WEIGHTS / _WEIGHTS.sum())
"""Nodes and weights of expectations under N(0, 1)."""
_WIDE = 1.5
"""The scale from which on moments are integrals over y."""
_STEP = 0.75
"""Between values of logit y, of the trapezoidal rule."""


class LogitNormal(TorchDistribution):
    r"""x = low + (high - low) sigmoid(u) with u ~ N(loc, scale²): a density on low < x < high.

    With y = (x - low) / (high - low),

        log p(x) = log N(logit y; loc, scale²) - log y - log(1 - y) - log(high - low).

    Source: Atchison & Shen 1980 (Biometrika 67, 261-272).

    Args:
        loc: mean of u.
        scale: standard deviation of u.
        low, high: the bounds, low < high.
        validate_args: check parameters and values; None is torch's global setting.
    """

    arg_constraints = {  # noqa: RUF012  (as torch writes it)
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.real,
        "high": constraints.real,
    }
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        low: Tensor | float = 0.0,
        high: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        bounds = (torch.as_tensor(b, dtype=loc.dtype, device=loc.device) for b in (low, high))
        self.loc, self.scale, self.low, self.high = torch.broadcast_tensors(loc, scale, *bounds)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The open interval between the bounds."""
        return OpenInterval(self.low, self.high)

    def expand(
        self, batch_shape: Sequence[int], _instance: LogitNormal | None = None
    ) -> LogitNormal:
        """Return the distribution with its batch shape broadcast."""
        new = self._get_checked_instance(LogitNormal, _instance)
        for name in ("loc", "scale", "low", "high"):
            setattr(new, name, getattr(self, name).expand(batch_shape))
        super(LogitNormal, new).__init__(Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        # Distances to both ends, each with its own digits.
        log_width = (self.high - self.low).log()
        log_y = (value - self.low).log() - log_width
        log_rest = (self.high - value).log() - log_width
        normal = Normal(self.loc, self.scale, validate_args=False).log_prob(log_y - log_rest)
        return normal - log_y - log_rest - log_width

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw x by reparameterisation."""
        return self._value(Normal(self.loc, self.scale).rsample(Size(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """E[x], by quadrature."""
        first, _ = self._moments()
        return self.low + (self.high - self.low) * first

    @property
    def variance(self) -> Tensor:
        """Var[x], by quadrature."""
        _, variance = self._moments()
        return (self.high - self.low).square() * variance

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Return E[y] and Var[y] of y = sigmoid(u), to about 1e-9 in float64.

        By Gauss and Hermite in u where it varies little. Where it varies much, y is nearly a step
        function of u, and E[y] = ∫ P(u > v) dsigmoid(v), E[y²] = ∫ 2 sigmoid(v) P(u > v)
        dsigmoid(v) are integrals of smooth functions, for the trapezoidal rule.
        """
        loc, scale = self.loc.unsqueeze(-1), self.scale.unsqueeze(-1)
        nodes, weights = map(loc.new_tensor, _HERMITE)
        y = (loc + scale.clamp(max=_WIDE) * nodes).sigmoid()
        narrow = (y * weights).sum(-1)
        narrow_variance = ((y - narrow.unsqueeze(-1)).square() * weights).sum(-1)
        v = torch.arange(-24, 24.1, _STEP, dtype=loc.dtype, device=loc.device)
        above = _STEP * v.sigmoid() * (-v).sigmoid()
        z = (loc - v) / scale.clamp(min=_WIDE)
        above = above * (0.5 + 0.5 * torch.erf(z / math.sqrt(2)))
        wide = above.sum(-1)
        wide_variance = (2 * v.sigmoid() * above).sum(-1) - wide.square()
        is_narrow = self.scale <= _WIDE
        variance = torch.where(is_narrow, narrow_variance, wide_variance.clamp(min=0))
        return torch.where(is_narrow, narrow, wide), variance

    def _value(self, u: Tensor) -> Tensor:
        x = self.low + (self.high - self.low) * u.sigmoid()
        # Rounding may reach the ends, where there is no density.
        return x.clamp(self.low.nextafter(self.high), self.high.nextafter(self.low))


class OpenInterval(constraints.Constraint):
    """Values strictly between two bounds."""

    is_discrete = False
    event_dim = 0

    def __init__(self, low: Tensor | float, high: Tensor | float) -> None:
        self.low, self.high = low, high
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Return for each value whether it is inside."""
        return (value > self.low) & (value < self.high)

    def __repr__(self) -> str:
        return "values between two bounds"
