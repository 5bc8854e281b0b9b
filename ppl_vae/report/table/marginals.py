"""How far the distribution of one column's synthetic cells is from that of the real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 500


@dataclass(frozen=True)
class Distance:
    """The distance of two samples of a column, and what it is between samples that are alike.

    Args:
        measure: Kolmogorov-Smirnov or total variation.
        value: from 0, alike, to 1, nothing in common.
        alike_up_to: 95 % of distances are below it if both samples are of one distribution.
    """

    measure: str
    value: float
    alike_up_to: float

    @property
    def is_larger(self) -> bool:
        """Whether the samples differ by more than their sizes explain."""
        return self.value > self.alike_up_to + 1e-9  # rounding


def distance(
    real: NDArray, synthetic: NDArray, *, coded: bool, rng: np.random.Generator
) -> Distance:
    r"""Compare the observed cells of a column with synthetic ones.

    Of numbers max_v \|F(v) - G(v)\|, the Kolmogorov-Smirnov distance of the empirical distribution
    functions; of categories ½ Σ_k \|p_k - q_k\|, the total variation. The second number is the 95 %
    point over random divisions of both samples together into two of these sizes, a permutation
    test, which allows for ties.

    Args:
        real: shape ``(n,)``, without NaN.
        synthetic: shape ``(m,)``, likewise.
        coded: whether values are categories.
        rng: of the divisions.
    """
    pooled, place = np.unique(np.concatenate([real, synthetic]), return_inverse=True)
    count_real = np.bincount(place[: len(real)], minlength=len(pooled))
    counts = np.bincount(place, minlength=len(pooled))
    measure = total_variation if coded else kolmogorov_smirnov

    def between(of_real: NDArray) -> float:
        return measure(of_real / len(real), (counts - of_real) / len(synthetic))

    # Drawing a subset of the cells is faster than a draw for each of many distinct values.
    method: Literal["count", "marginals"] = "count" if len(pooled) > 50 else "marginals"
    divided = [
        between(rng.multivariate_hypergeometric(counts, len(real), method=method))
        for _ in range(PERMUTATIONS)
    ]
    name = "total variation" if coded else "Kolmogorov-Smirnov"
    return Distance(name, between(count_real), float(np.quantile(divided, 0.95)))


def kolmogorov_smirnov(p: NDArray, q: NDArray) -> float:
    """Return the largest difference of two cumulative sums of shares of ascending values."""
    return float(np.abs(np.cumsum(p - q)).max())


def total_variation(p: NDArray, q: NDArray) -> float:
    """Return half the sum of absolute differences of shares: what would have to change."""
    return float(0.5 * np.abs(p - q).sum())
