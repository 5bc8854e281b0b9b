"""The logit-normal distribution of a bounded value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

_NODES = 32
"""Of Gauss-Hermite quadrature, for the moments."""


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
        nodes, weights = self._quadrature()
        return (self._at(nodes) * weights).sum(-1)

    @property
    def variance(self) -> Tensor:
        """Var[x], by quadrature."""
        nodes, weights = self._quadrature()
        return ((self._at(nodes) - self.mean.unsqueeze(-1)).square() * weights).sum(-1)

    def _value(self, u: Tensor) -> Tensor:
        x = self.low + (self.high - self.low) * u.sigmoid()
        # Rounding may reach the ends, where there is no density.
        return x.clamp(self.low.nextafter(self.high), self.high.nextafter(self.low))

    def _at(self, nodes: Tensor) -> Tensor:
        u = self.loc.unsqueeze(-1) + self.scale.unsqueeze(-1) * nodes
        low, high = self.low.unsqueeze(-1), self.high.unsqueeze(-1)
        return low + (high - low) * u.sigmoid()

    def _quadrature(self) -> tuple[Tensor, Tensor]:
        """Return nodes and weights of the expectation under N(0, 1)."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        return self.loc.new_tensor(nodes), self.loc.new_tensor(weights / weights.sum())


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
