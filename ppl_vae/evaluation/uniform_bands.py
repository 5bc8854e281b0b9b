"""Simultaneous bands for the empirical distribution function of uniform ranks."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

_STEPS = 40


class UniformBands:
    r"""Bands for the ECDF of N independent ranks, uniform on 0, ..., L.

    At z_j = j / (L + 1), j = 1, ..., L, the number S_j of ranks below j is Binomial(N, z_j). The
    band keeps the values of S_j with

        min(P(S_j ≤ s), P(S_j ≥ s)) > t

    at every j, for one t. The probability that all S_j stay inside is exact: given their sum N, the
    numbers of ranks of each value are independent Poisson(N / (L + 1)) variables, so the path of
    S_j is followed by L + 1 convolutions, cut to the band after each.

    Source: Säilynoja, Bürkner & Vehtari 2022 (arXiv 2103.10522), whose γ is 2 t, found by their
    optimisation; the recursion is written with Poisson variables instead of binomial ones.

    Args:
        num_ranks: N, the number of ranks.
        num_draws: L, the largest rank.

    Example:
        >>> bands = UniformBands(1000, 99)
        >>> t = bands.threshold(0.05)
        >>> 0.95 <= bands.inside(t) < 0.96
        True
    """

    def __init__(self, num_ranks: int, num_draws: int) -> None:
        self.num_ranks = n = num_ranks
        self.num_draws = num_draws
        self.points: NDArray = np.arange(1, num_draws + 1) / (num_draws + 1)
        k = torch.arange(n + 1, dtype=torch.float64, device="cpu")
        log_factorial = torch.lgamma(k + 1)
        log_choose = log_factorial[n] - log_factorial - log_factorial.flip(0)
        self.tails: NDArray = np.empty((num_draws, n + 1))
        """Per point and s the smaller of P(S ≤ s) and P(S ≥ s)."""
        for j, z in enumerate(self.points):
            pmf = (log_choose + k * math.log(z) + (n - k) * math.log1p(-z)).exp()
            self.tails[j] = torch.minimum(pmf.cumsum(0), pmf.flip(0).cumsum(0).flip(0)).numpy()
        mean = n / (num_draws + 1)
        self._poisson: NDArray = (k * math.log(mean) - mean - log_factorial).exp().numpy()
        self._total = math.exp(n * math.log(n) - n - float(log_factorial[n]))

    def limits(self, threshold: float) -> tuple[NDArray, NDArray]:
        """Return the least and the greatest S_j inside, shape ``(L,)`` each."""
        inside = self.tails > threshold
        return inside.argmax(1), self.num_ranks - inside[:, ::-1].argmax(1)

    def inside(self, threshold: float) -> float:
        """Return the probability that the ECDF of uniform ranks stays inside everywhere."""
        if not (self.tails > threshold).any(1).all():
            return 0.0
        mass, start = np.ones(1), 0
        for low, high in zip(*self.limits(threshold), strict=True):
            low = max(low, start)
            added = np.convolve(mass, self._poisson[: high - start + 1])
            mass, start = added[low - start : high - start + 1], low
        rest = self._poisson[self.num_ranks - start - np.arange(len(mass))]
        return min(1.0, float(mass @ rest) / self._total)

    def threshold(self, chance: float) -> float:
        """Return the greatest t for which uniform ranks leave the band with at most a chance."""
        low, high = math.log(chance / (2 * self.num_draws)), math.log(0.5)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            if 1 - self.inside(math.exp(middle)) <= chance:
                low = middle
            else:
                high = middle
        return math.exp(low)

    def least_tail(self, counts: NDArray) -> float:
        """Return the least tail of some S_j, shape ``(L,)``: the band that they just leave."""
        return float(self.tails[np.arange(self.num_draws), counts].min())

    def p_value(self, counts: NDArray) -> float:
        """Return the chance that uniform ranks reach a tail as small as that of some S_j."""
        return 1 - self.inside(self.least_tail(counts))


@lru_cache(maxsize=2)
def uniform_bands(num_ranks: int, num_draws: int) -> UniformBands:
    """Return :class:`UniformBands`, computed once for a number of ranks and draws."""
    return UniformBands(num_ranks, num_draws)
