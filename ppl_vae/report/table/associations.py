"""Associations of pairs of columns, in real and synthetic tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Associations:
    """Matrices ``(D, D)`` of the associations of D columns; NaN where one is not defined.

    Args:
        real: of the real table.
        synthetic: mean over synthetic tables of as many rows, with the same cells missing.
        error: standard deviation over these tables: how much one table of this size varies.
        noise: mean absolute difference over pairs of one synthetic table from the mean of others.
    """

    real: NDArray
    synthetic: NDArray
    error: NDArray
    noise: float

    @property
    def difference(self) -> NDArray:
        """Synthetic minus real."""
        return self.synthetic - self.real

    @property
    def mean_difference(self) -> float:
        """Mean absolute difference over pairs of columns; NaN if none is defined."""
        pairs = self.difference[np.triu_indices(len(self.real), 1)]
        pairs = np.abs(pairs[~np.isnan(pairs)])
        return float(pairs.mean()) if len(pairs) else float("nan")

    def largest(self, most: int) -> list[tuple[int, int]]:
        """Return the pairs of columns of the largest absolute differences, in descending order."""
        size = np.abs(np.triu(self.difference, 1))
        order = np.argsort(-np.nan_to_num(size), axis=None, kind="stable")[:most]
        pairs = zip(*np.unravel_index(order, size.shape), strict=True)
        return [(int(i), int(j)) for i, j in pairs if size[i, j] > 0]


def compared(real: NDArray, synthetic: NDArray, nominal: Sequence[bool]) -> Associations:
    """Return the associations of a table beside those of synthetic ones.

    Args:
        real: shape ``(N, D)``, NaN where missing.
        synthetic: tables, shape ``(R, N, D)``, of which the same cells are left out, as otherwise
            the statistics of few rows, which are too large, would meet those of many.
        nominal: whether each column has categories without order.
    """
    tables = np.where(np.isnan(real), np.nan, synthetic)
    found = np.stack([associations(table, nominal) for table in tables])
    known = ~np.isnan(found).any(0)
    mean = np.where(known, found.mean(0), np.nan)
    # From the mean of the other R - 1 tables.
    apart = np.abs(found - mean) * (len(found) / (len(found) - 1))
    above = known & np.triu(np.ones_like(known), 1).astype(bool)
    noise = float(apart[:, above].mean()) if above.any() else float("nan")
    return Associations(associations(real, nominal), mean, found.std(0, ddof=1), noise)


def associations(values: NDArray, nominal: Sequence[bool]) -> NDArray:
    """Return the association of each pair of columns, over the rows where both are observed.

    Of numbers and levels Spearman's rank correlation, from -1 to 1; of two columns of categories
    Cramér's V = √(χ² / (n (min(K, L) - 1))); of a column of categories with one of numbers the
    correlation ratio η of the ranks, η² = between-category sum of squares / total; from 0 to 1.
    Ranks are those among all observed cells of a column. NaN where a column has one value.

    Args:
        values: shape ``(N, D)``, NaN where missing.
        nominal: whether each column has categories without order.

    Source: Cramér 1946, "Mathematical Methods of Statistics", chapter 21; Fisher 1925,
    "Statistical Methods for Research Workers", chapter VIII.
    """
    from scipy import stats  # a dependency of scikit-learn, slow to import

    named = np.flatnonzero(nominal)
    ordered = np.flatnonzero(~np.asarray(nominal, dtype=bool))
    found = np.full((values.shape[1],) * 2, np.nan)
    ranks = stats.rankdata(values, axis=0, nan_policy="omit")
    found[np.ix_(ordered, ordered)] = _correlations(ranks[:, ordered])
    for at, i in enumerate(named):
        for j in named[: at + 1]:
            found[i, j] = found[j, i] = cramers_v(values[:, i], values[:, j])
        for j in ordered:
            found[i, j] = found[j, i] = correlation_ratio(values[:, i], ranks[:, j])
    return found


def cramers_v(one: NDArray, other: NDArray) -> float:
    """Return Cramér's V of two columns of categories; NaN if one has a single category."""
    from scipy.stats import contingency

    both = ~(np.isnan(one) | np.isnan(other))
    table = contingency.crosstab(one[both], other[both]).count
    if min(table.shape) < 2:
        return float("nan")
    return float(contingency.association(table, method="cramer"))


def correlation_ratio(categories: NDArray, numbers: NDArray) -> float:
    """Return η of numbers by categories; NaN if there is a single category or number."""
    both = ~(np.isnan(categories) | np.isnan(numbers))
    kinds, place = np.unique(categories[both], return_inverse=True)
    deviation = numbers[both] - numbers[both].mean() if both.any() else numbers[both]
    total = (deviation**2).sum()
    if len(kinds) < 2 or total == 0:
        return float("nan")
    sums, counts = np.bincount(place, deviation), np.bincount(place)
    return float(np.sqrt((sums**2 / counts).sum() / total))


def _correlations(columns: NDArray) -> NDArray:
    """Return Pearson's correlation of each pair, over the rows where both are not NaN."""
    seen = (~np.isnan(columns)).astype(float)
    x = np.nan_to_num(columns)
    x = np.where(seen > 0, x - x.sum(0) / np.maximum(seen.sum(0), 1), 0)
    count = seen.T @ seen
    of_rows = np.maximum(count, 1)
    mean = x.T @ seen / of_rows  # of column i over the rows where j is observed
    variance = (x**2).T @ seen / of_rows - mean**2
    covariance = x.T @ x / of_rows - mean * mean.T
    # What rounding leaves of a column of one value.
    constant = variance <= 1e-12 * np.maximum((x**2).T @ seen / of_rows, 1e-300)
    undefined = (count < 2) | constant | constant.T
    scale = np.where(undefined, 1.0, variance)
    return np.where(undefined, np.nan, (covariance / np.sqrt(scale * scale.T)).clip(-1, 1))
