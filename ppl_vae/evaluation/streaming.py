"""Sums over importance weights that come a part at a time."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evaluation.pareto import pareto_k, tail_size

_AT_ONCE = 2500


class WeightSums:
    """What is kept of S log weights per datum: mean and spread, and the largest.

    Mean and squared deviations are relative to the largest weight, in float64, and of parts are put
    together as Chan et al. do (1983, The American Statistician 37(3), equation 2.1): a difference
    of sums of squares would lose the spread of weights that are nearly equal.

    Args:
        num_samples: S, how many weights per datum are to come in all.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self._keep = tail_size(num_samples) + 1
        self._eps = 0.0
        self._waiting: list[Tensor] = []
        self._moments: _Moments | None = None
        self._largest: Tensor | None = None

    def add(self, log_w: Float[Tensor, "samples data"]) -> None:
        """Take some of the log weights in."""
        self._waiting.append(log_w)
        # Many at a time: a few take as long, and the largest are looked for among those kept, too.
        if sum(map(len, self._waiting)) >= max(_AT_ONCE, 4 * self._keep):
            self._sum_up()

    def _sum_up(self) -> None:
        """Take in what waits."""
        if not self._waiting:
            return
        log_w = torch.cat(self._waiting)
        self._waiting = []
        self._eps = torch.finfo(log_w.dtype).eps
        log_w = log_w.double()
        moments = _Moments.of(log_w)
        if self._moments is None or self._largest is None:
            self._moments, all_kept = moments, log_w
        else:
            self._moments = self._moments.with_further(moments)
            all_kept = torch.cat([self._largest, log_w])
        self._largest = all_kept.topk(min(self._keep, len(all_kept)), dim=0).values

    @property
    def log_sum(self) -> Float[Tensor, " data"]:
        """log Σ_s w_s."""
        moments = self._all
        return (moments.number * moments.mean).log() + moments.scale

    @property
    def _all(self) -> _Moments:
        self._sum_up()
        assert self._moments is not None, "no weights have been added"
        return self._moments

    @property
    def log_mean(self) -> Float[Tensor, " data"]:
        """log (1/S) Σ_s w_s."""
        return self.log_sum - math.log(self.num_samples)

    @property
    def ess(self) -> Float[Tensor, " data"]:
        """(Σ w)² / Σ w², the effective sample size (Kong 1992)."""
        moments = self._all
        return self.num_samples / (1 + moments.deviations / moments.mean**2 / self.num_samples)

    @property
    def standard_error(self) -> Float[Tensor, " data"]:
        """The standard error of ``log_mean``, √(Var w / S) / mean w; NaN for one weight.

        The delta method, with the unbiased variance.
        """
        moments = self._all
        variance = moments.deviations / (self.num_samples - 1 or math.nan)
        return (variance / self.num_samples).sqrt() / moments.mean

    @property
    def pareto_k(self) -> Float[Tensor, " data"]:
        """k̂ of :func:`ppl_vae.evaluation.pareto.pareto_k`."""
        self._sum_up()
        assert self._largest is not None
        return pareto_k(self._largest, self.num_samples, eps=self._eps)


class _Moments(NamedTuple):
    """Of some weights per datum, as multiples of e^scale.

    Args:
        number: how many.
        scale: the largest log weight, or 0 where that is not finite.
        mean: of the weights.
        deviations: the sum of their squared deviations from the mean.
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

    def with_further(self, other: _Moments) -> _Moments:
        nothing = torch.stack([self.mean, other.mean]) == 0  # whose scale says nothing
        scales = torch.stack([self.scale, other.scale])
        scale = scales.masked_fill(nothing, -math.inf).amax(0)
        scale = scale.where(scale.isfinite(), 0.0)
        one, two = (scales - scale).masked_fill(nothing, 0.0).exp()
        number = self.number + other.number
        first, second = one * self.mean, two * other.mean
        apart = second - first
        return _Moments(
            number,
            scale,
            first + apart * (other.number / number),
            one.square() * self.deviations
            + two.square() * other.deviations
            + apart.square() * (self.number * other.number / number),
        )
