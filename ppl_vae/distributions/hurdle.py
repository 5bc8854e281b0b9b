"""A log-normal distribution with an atom at zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions import LogNormal, TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn import functional as F


class HurdleLogNormal(TorchDistribution):
    r"""x = 0 with probability sigmoid(-logit), else log x ~ N(loc, scale²).

    Its density is that with respect to the sum of Lebesgue measure on x > 0 and an atom at 0:
    p(0) = sigmoid(-logit) is a probability, p(x) = sigmoid(logit) LogNormal(x; loc, scale²) for
    x > 0 a density.

    Source: the two-part model of Duan et al. 1983 (J. Business & Economic Statistics 1, 115-126).

    Args:
        logit: log-odds of x > 0.
        loc: mean of log x given x > 0.
        scale: standard deviation of log x given x > 0.
        validate_args: check parameters and values; None is torch's global setting.

    Example:
        >>> HurdleLogNormal(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(1.0)).log_prob(
        ...     torch.tensor(0.0)
        ... ).exp()
        tensor(0.5000)
    """

    arg_constraints = {  # noqa: RUF012  (as torch writes it)
        "logit": constraints.real,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.nonnegative

    def __init__(
        self, logit: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None
    ) -> None:
        self.logit, self.loc, self.scale = torch.broadcast_tensors(logit, loc, scale)
        super().__init__(self.logit.shape, validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: HurdleLogNormal | None = None
    ) -> HurdleLogNormal:
        """Return the distribution with its batch shape broadcast."""
        new = self._get_checked_instance(HurdleLogNormal, _instance)
        for name in ("logit", "loc", "scale"):
            setattr(new, name, getattr(self, name).expand(batch_shape))
        super(HurdleLogNormal, new).__init__(Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density at x > 0, the log-probability at 0, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        is_positive = value > 0
        # 1 in the place of 0, so that the branch not taken has a finite gradient.
        positive = torch.where(is_positive, value, 1.0)
        density = F.logsigmoid(self.logit) + self._positive_part().log_prob(positive)
        return torch.where(is_positive, density, F.logsigmoid(-self.logit))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw x."""
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            uniform = torch.rand(shape, dtype=self.logit.dtype, device=self.logit.device)
            draws = self._positive_part().sample(Size(sample_shape))
            return torch.where(uniform < self.logit.sigmoid(), draws, 0.0)

    @property
    def mean(self) -> Tensor:
        """E[x] = sigmoid(logit) exp(loc + scale² / 2)."""
        return self.logit.sigmoid() * self._positive_part().mean

    @property
    def variance(self) -> Tensor:
        """Var[x]."""
        positive = self._positive_part()
        between = (-self.logit).sigmoid() * positive.mean.square()
        return self.logit.sigmoid() * (positive.variance + between)

    def _positive_part(self) -> LogNormal:
        return LogNormal(self.loc, self.scale, validate_args=False)
