"""Columns of real values."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_vae.columns.family import MIN_SCALE, ScaledFamily, Source, initial, second_parameter
from ppl_vae.distributions.scale import positive_scale
from ppl_vae.distributions.student_t import StudentT as _StudentT


class _Standardised(ScaledFamily):
    """A location-scale family of (x - mean) / std."""

    constants = ("mean", "std")
    mean: int | float
    std: int | float

    def __init__(
        self,
        mean: int | float = 0.0,
        std: int | float = 1.0,
        scale: Source = "network",
        *,
        min_scale: int | float = MIN_SCALE,
    ) -> None:
        super().__init__()
        self._declare(mean=mean, std=std)
        self._declare_scale(scale, min_scale)

    @property
    def support(self) -> Constraint:
        """All real numbers."""
        return constraints.real

    def features(self, x: Tensor, *, mean: Tensor, std: Tensor) -> Tensor:
        """Return (x - mean) / std."""
        return ((x - mean) / std).unsqueeze(-1)


class Normal(_Standardised):
    """x = mean + std u with u ~ N(l, σ²): l from the network, σ = softplus(.) + min_scale.

    Args:
        mean, std: by which x is standardised, such as those of the observed values.
        scale: σ is a function of z (``"network"``), or one number for all rows (``"learned"``).
        min_scale: the least σ, in units of std.

    Example:
        >>> import torch
        >>> Normal(mean=170.0, std=10.0).num_outputs
        2
    """

    def distribution(
        self,
        outputs: Tensor,
        *,
        mean: Tensor,
        std: Tensor,
        unconstrained_scale: Tensor | None = None,
    ) -> Any:
        """Return p(x | outputs)."""
        scale = second_parameter(outputs, unconstrained_scale, self.min_scale)
        return dist.Normal(mean + std * outputs[..., 0], std * scale)


_LEAST_DF = 2.5


class StudentT(_Standardised):
    """x = mean + std u with u ~ Student-t(ν, l, σ): for values with outliers.

    l from the network, σ = softplus(.) + min_scale, and ν = softplus(.) + 2.5 (so that there is a
    variance), from the network or learned as the scale is; a learned ν is exp(.) + 2.5.

    Source: Mattei & Frellsen 2019 (arXiv 1812.02633), appendix, which has ν ≥ 3.

    Args:
        mean, std: by which x is standardised, such as those of the observed values.
        scale: σ and ν are functions of z (``"network"``), or the same for all rows (``"learned"``).
        min_scale: the least σ, in units of std.
    """

    @property
    def num_outputs(self) -> int:
        """A location, and scale and degrees of freedom unless they are learned."""
        return 3 if self.scale == "network" else 1

    def learned(self) -> dict[str, Tensor]:
        """Return the unconstrained scale and log(ν - 2.5), if they are learned."""
        own = {"log_df": initial()} if self.scale == "learned" else {}
        return {**super().learned(), **own}

    def distribution(
        self,
        outputs: Tensor,
        *,
        mean: Tensor,
        std: Tensor,
        unconstrained_scale: Tensor | None = None,
        log_df: Tensor | None = None,
    ) -> Any:
        """Return p(x | outputs)."""
        scale = second_parameter(outputs, unconstrained_scale, self.min_scale)
        learned = None if log_df is None else log_df.exp() + _LEAST_DF
        df = positive_scale(outputs[..., 2], _LEAST_DF) if learned is None else learned
        return _StudentT(df, mean + std * outputs[..., 0], std * scale)
