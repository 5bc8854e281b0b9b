"""Columns of values between two bounds."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions.constraints import Constraint

from ppl_vae.columns.family import MIN_SCALE, ScaledFamily, Source, second_parameter
from ppl_vae.columns.positive import safe_log
from ppl_vae.distributions.logit_normal import LogitNormal as _LogitNormal
from ppl_vae.distributions.logit_normal import OpenInterval
from ppl_vae.errors import number


class LogitNormal(ScaledFamily):
    """x = low + (high - low) sigmoid(u) with u ~ N(l, σ²), for low < x < high.

    l from the network, σ = softplus(.) + min_scale.

    Args:
        low, high: the bounds, which no value reaches.
        scale: σ is a function of z (``"network"``), or one number for all rows (``"learned"``).
        min_scale: the least σ.
    """

    constants = ("low", "high")
    low: int | float
    high: int | float

    def __init__(
        self,
        low: int | float = 0.0,
        high: int | float = 1.0,
        scale: Source = "network",
        *,
        min_scale: int | float = MIN_SCALE,
    ) -> None:
        super().__init__()
        self._declare(low=low)
        self.high = number("LogitNormal", "high", high, above=low)
        self._declare_scale(scale, min_scale)

    @property
    def filling(self) -> float:
        """The middle."""
        return (self.low + self.high) / 2

    @property
    def support(self) -> Constraint:
        """Numbers between the bounds."""
        return OpenInterval(self.low, self.high)

    def distribution(
        self,
        outputs: Tensor,
        *,
        low: Tensor,
        high: Tensor,
        unconstrained_scale: Tensor | None = None,
    ) -> Any:
        """Return p(x | outputs)."""
        scale = second_parameter(outputs, unconstrained_scale, self.min_scale)
        return _LogitNormal(outputs[..., 0], scale, low, high)

    def features(self, x: Tensor, *, low: Tensor, high: Tensor) -> Tensor:
        """Return log[(x - low) / (high - x)]."""
        return (safe_log(x - low) - safe_log(high - x)).unsqueeze(-1)
