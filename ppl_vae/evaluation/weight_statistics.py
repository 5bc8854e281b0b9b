"""Statistics of importance weights, accumulated chunk by chunk."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evaluation.pareto import pareto_k, tail_size

_AT_ONCE = 2500


class WeightStatistics:
    """Mean, standard error, effective sample size and tail shape of S weights per datum.

    Mean and squared deviations are relative to the largest weight, in float64, and combined over
    chunks by Chan et al. (1983, The American Statistician 37(3), equation 2.1): a difference of
    sums of squares would lose the spread of nearly equal weights.

    Args:
        num_samples: S, the total number of weights per datum.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self._keep = tail_size(num_samples) + 1
        self._eps = 0.0
        self._pending: list[Tensor] = []
        self._moments: _Moments | None = None
        self._largest: Tensor | None = None

    def add(self, log_w: Float[Tensor, "samples data"]) -> None:
        """Add a chunk of log weights."""
        self._pending.append(log_w)
        # Few weights take as long as many, since topk also searches those kept.
        if sum(map(len, self._pending)) >= max(_AT_ONCE, 4 * self._keep):
            self._flush()

    def _flush(self) -> None:
        """Accumulate the pending weights."""
        if not self._pending:
            return
        log_w = torch.cat(self._pending)
        self._pending = []
        self._eps = torch.finfo(log_w.dtype).eps
        log_w = log_w.double()
        moments = _Moments.of(log_w)
        if self._moments is None or self._largest is None:
            self._moments, candidates = moments, log_w
        else:
            self._moments = self._moments.combined(moments)
            candidates = torch.cat([self._largest, log_w])
        self._largest = candidates.topk(min(self._keep, len(candidates)), dim=0).values

    @property
    def log_sum(self) -> Float[Tensor, " data"]:
        """log Σ_s w_s."""
        moments = self._accumulated
        return (moments.number * moments.mean).log() + moments.scale

    @property
    def all(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``log_mean``, ``standard_error``, ``ess`` and ``pareto_k``."""
        return self.log_mean, self.standard_error, self.ess, self.pareto_k

    @property
    def _accumulated(self) -> _Moments:
        self._flush()
        assert self._moments is not None, "no weights have been added"
        return self._moments

    @property
    def log_mean(self) -> Float[Tensor, " data"]:
        """log (1/S) Σ_s w_s."""
        return self.log_sum - math.log(self.num_samples)

    @property
    def ess(self) -> Float[Tensor, " data"]:
        """(Σ w)² / Σ w², the effective sample size (Kong 1992)."""
        moments = self._accumulated
        return self.num_samples / (1 + moments.deviations / moments.mean**2 / self.num_samples)

    @property
    def standard_error(self) -> Float[Tensor, " data"]:
        """The standard error of ``log_mean``, √(Var w / S) / mean w; NaN for one weight.

        The delta method, with the unbiased variance.
        """
        moments = self._accumulated
        variance = moments.deviations / (self.num_samples - 1 or math.nan)
        return (variance / self.num_samples).sqrt() / moments.mean

    @property
    def pareto_k(self) -> Float[Tensor, " data"]:
        """k̂ of :func:`ppl_vae.evaluation.pareto.pareto_k`."""
        self._flush()
        assert self._largest is not None
        return pareto_k(self._largest, self.num_samples, eps=self._eps)


class _Moments(NamedTuple):
    """Number, mean and sum of squared deviations of weights per datum, in units of e^scale.

    The scale is the largest log weight, or 0 if that is not finite.
    """

    number: int
    scale: Tensor
    mean: Tensor
    deviations: Tensor

    @classmethod
    def of(cls, log_w: Tensor) -> _Moments:
        largest = log_w.amax(0)
        scale = largest.where(largest.isfinite(), 0.0)
        w = (log_w - scale).exp()
        mean = w.mean(0)
        return cls(len(log_w), scale, mean, (w - mean).square().sum(0))

    def combined(self, other: _Moments) -> _Moments:
        zero = torch.stack([self.mean, other.mean]) == 0  # whose scale is arbitrary
        scales = torch.stack([self.scale, other.scale])
        scale = scales.masked_fill(zero, -math.inf).amax(0)
        scale = scale.where(scale.isfinite(), 0.0)
        factor, other_factor = (scales - scale).masked_fill(zero, 0.0).exp()
        number = self.number + other.number
        mean = factor * self.mean
        difference = other_factor * other.mean - mean
        deviations = (
            factor.square() * self.deviations
            + other_factor.square() * other.deviations
            + difference.square() * (self.number * other.number / number)
        )
        return _Moments(number, scale, mean + difference * (other.number / number), deviations)


def check_log_weights(
    owner: str, log_w: Float[Tensor, "particles batch"], start: int, *, zero_too: bool = False
) -> None:
    """Raise ValueError, naming the first such datum, if a weight is NaN or infinite.

    With ``zero_too`` also if all weights of a datum are zero; ``start`` is the first one's index.
    """
    bad = (log_w.isnan() | (log_w == torch.inf)).any(0)
    if zero_too:
        bad |= (log_w == -torch.inf).all(0)
    if bad.any():
        first = int(bad.nonzero()[0])
        column = log_w[:, first]
        wrong = column[~column.isfinite()]
        number = f", and {int(bad.sum()) - 1} more of its batch" if bad.sum() > 1 else ""
        raise ValueError(
            f"{owner}: log weight {wrong[0].item()} for datum {start + first}{number}: densities "
            f"must be finite at the latents drawn, and p(x, z) not zero at all of them; look at "
            f"their parameters, and whether x is in the support"
        )
