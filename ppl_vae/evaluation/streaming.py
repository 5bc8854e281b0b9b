"""Sums over importance weights that come a part at a time."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evaluation.pareto import pareto_k, tail_size

_AT_ONCE = 2500


class WeightSums:
    """What is kept of S log weights per datum: log Σ w, log Σ w² and the largest.

    Everything is in float64, and on the scale of logarithms.

    Args:
        num_samples: S, how many weights per datum are to come in all.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self._keep = tail_size(num_samples) + 1
        self._eps = 0.0
        self._waiting: list[Tensor] = []
        self._log_sum: Tensor | None = None
        self._log_squares: Tensor | None = None
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
        log_sum, log_squares = _log_sums(log_w)
        if self._log_sum is None or self._log_squares is None or self._largest is None:
            self._log_sum, self._log_squares, all_kept = log_sum, log_squares, log_w
        else:
            self._log_sum = torch.logaddexp(self._log_sum, log_sum)
            self._log_squares = torch.logaddexp(self._log_squares, log_squares)
            all_kept = torch.cat([self._largest, log_w])
        self._largest = all_kept.topk(min(self._keep, len(all_kept)), dim=0).values

    @property
    def log_sum(self) -> Float[Tensor, " data"]:
        """log Σ_s w_s."""
        self._sum_up()
        assert self._log_sum is not None, "no weights have been added"
        return self._log_sum

    @property
    def log_mean(self) -> Float[Tensor, " data"]:
        """log (1/S) Σ_s w_s."""
        return self.log_sum - math.log(self.num_samples)

    @property
    def ess(self) -> Float[Tensor, " data"]:
        """(Σ w)² / Σ w², the effective sample size (Kong 1992)."""
        self._sum_up()
        assert self._log_squares is not None
        return (2 * self.log_sum - self._log_squares).exp()

    @property
    def standard_error(self) -> Float[Tensor, " data"]:
        """The standard error of ``log_mean``, √(Var w / S) / mean w; NaN for one weight.

        The delta method, with the unbiased variance: (S/ESS - 1) / (S - 1) is the square.
        """
        square = (self.num_samples / self.ess - 1) / (self.num_samples - 1 or math.nan)
        return square.clamp(min=0).sqrt()  # equal weights may round to less than 0

    @property
    def pareto_k(self) -> Float[Tensor, " data"]:
        """k̂ of :func:`ppl_vae.evaluation.pareto.pareto_k`."""
        self._sum_up()
        assert self._largest is not None
        return pareto_k(self._largest, self.num_samples, eps=self._eps)


def _log_sums(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Return log Σ w and log Σ w², from one exponential."""
    largest = log_w.amax(0)
    largest = largest.where(largest.isfinite(), 0.0)
    w = (log_w - largest).exp()
    return w.sum(0).log() + largest, w.square().sum(0).log() + 2 * largest
