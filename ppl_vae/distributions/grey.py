"""Grey levels: a grid of values in [0, 1], and distributions over it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Categorical, constraints


class GreyGrid(constraints.Constraint):
    """The values k / (levels - 1), k = 0, ..., levels - 1, within float32 rounding."""

    is_discrete = True
    event_dim = 0

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Return for each value whether it is on the grid."""
        level = value * (self.levels - 1)
        # float32's tolerance throughout: values of other dtypes often were float32.
        tolerance = 4 * self.levels * torch.finfo(torch.float32).eps
        inside = (value > -0.5 / self.levels) & (value < 1 + 0.5 / self.levels)
        return inside & ((level - level.round()).abs() <= tolerance)

    def __repr__(self) -> str:
        return f"k / {self.levels - 1} for k = 0, ..., {self.levels - 1}"


def level_of(value: Tensor, levels: int) -> Tensor:
    """Return the integer k of the grid value nearest to ``value``, as int64."""
    # Clamped last, so that no value, not even NaN, gives an index out of range.
    return (value * (levels - 1)).round().long().clamp(0, levels - 1)


class GreyGridDistribution(TorchDistribution):
    """Base class of distributions over grey values.

    The event dimensions of ``arg_constraints`` are those of a parameter that are not batch
    dimensions. Subclasses set the number of levels, ``levels``.
    """

    levels: int

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The grid of grey values in [0, 1]."""
        return GreyGrid(self.levels)

    def expand(
        self, batch_shape: Sequence[int], _instance: GreyGridDistribution | None = None
    ) -> GreyGridDistribution:
        """Return the distribution with its batch shape broadcast."""
        new = self._get_checked_instance(type(self), _instance)
        for name, constraint in self.arg_constraints.items():
            value = getattr(self, name)
            own = value.shape[value.dim() - constraint.event_dim :]
            setattr(new, name, value.expand(*batch_shape, *own))
        new.levels = self.levels
        super(GreyGridDistribution, new).__init__(
            Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def _level(self, value: Tensor) -> Tensor:
        """Return the levels of values, validated to be on the grid if validation is on."""
        if self._validate_args:
            self._validate_sample(value)
        return level_of(value, self.levels)


class GreyCategorical(GreyGridDistribution):
    """P(x = k / (L - 1)) = softmax(logits)_k, k = 0, ..., L - 1: a categorical over grey levels.

    Args:
        logits: shape ``(..., L)`` with L ≥ 2; the batch shape is ``(...)``.
        validate_args: check logits and values; None is torch's global setting.

    Example:
        >>> GreyCategorical(torch.zeros(5)).log_prob(torch.tensor(0.25)).exp()
        tensor(0.2000)
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012  (as torch writes it)

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        self.levels = logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), in nats."""
        level = self._level(value).unsqueeze(-1)
        level, log_mass = torch.broadcast_tensors(level, self.logits.log_softmax(-1))
        return log_mass.gather(-1, level[..., :1]).squeeze(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw grid values."""
        with torch.no_grad():
            level = Categorical(logits=self.logits).sample(sample_shape)
            return level.to(self.logits.dtype) / (self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """E[x] = Σ_k P(k) k / (L - 1)."""
        return (self.logits.softmax(-1) * self._values()).sum(-1)

    @property
    def variance(self) -> Tensor:
        """Var[x] = Σ_k P(k) [k / (L - 1) - E[x]]²."""
        deviation = self._values() - self.mean.unsqueeze(-1)
        return (self.logits.softmax(-1) * deviation.square()).sum(-1)

    def _values(self) -> Tensor:
        levels = torch.arange(self.levels, dtype=self.logits.dtype, device=self.logits.device)
        return levels / (self.levels - 1)
