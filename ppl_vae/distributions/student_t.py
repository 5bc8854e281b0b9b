"""Student's t-distribution, accurate for large degrees of freedom."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.distributions.saddle_point import broadcast_floats, log_gamma_increment


class StudentT(dist.StudentT):
    r"""torch's Student t-distribution with a log-density accurate for large degrees of freedom.

    With u = (x - l) / σ and a = ν / 2, log p(x) = -½ log 2π - log σ - (a + ½) log(1 + u² / ν) +
    h(a + ½) - h(a) + (a + ½) log(1 + 1 / 2a) - ½, h as in
    :mod:`ppl_vae.distributions.saddle_point`. The last three terms are 0 in the limit, the normal
    distribution; torch's form is off there by nats in float32, from ν = 10⁷ on.

    Args:
        df: ν, positive.
        loc: l.
        scale: σ, positive.
        validate_args: check parameters and values; None is torch's global setting.

    Example:
        >>> StudentT(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(1.0)).log_prob(
        ...     torch.tensor(0.0)
        ... )
        tensor(-1.1447)
    """

    def expand(self, batch_shape: Sequence[int], _instance: StudentT | None = None) -> StudentT:
        """Return the distribution with its batch shape broadcast."""
        return super().expand(batch_shape, self._get_checked_instance(StudentT, _instance))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value), in nats, at least in float32."""
        if self._validate_args:
            self._validate_sample(value)
        x, df, loc, scale = broadcast_floats(value, self.df, self.loc, self.scale)
        half = df / 2
        kernel = (half + 0.5) * torch.log1p(((x - loc) / scale).square() / df)
        gain = log_gamma_increment(half, torch.full_like(half, 0.5))
        gain = gain + (half + 0.5) * torch.log1p(1 / df) - 0.5
        return gain - kernel - scale.log() - 0.5 * math.log(2 * math.pi)
