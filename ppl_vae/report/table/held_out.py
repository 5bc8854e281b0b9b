"""Cells that are observed, hidden from a pair, and imputed: how well, and how surely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.evaluation import accuracy_interval
from ppl_vae.evaluation.classification import Reliability, binned
from ppl_vae.evaluation.estimate import Estimate

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Probabilities of the central intervals that are checked."""
CONFIDENCE = 0.99
"""Of the bands around shares: at four levels and in many columns, 95 % would often err."""
BINS = 10
"""Of the probabilities of categories."""
_ROWS_AT_ONCE = 500


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The cells that were hidden, in the order of rows, and what was imputed for each.

    Args:
        row: index of the row, shape ``(cells,)``.
        column: index of the column.
        truth: what the cell holds.
        guess: the best guess, as of ``impute``.
        draws: from p(cell | cells seen), shape ``(draws, cells)``.
        seen: the table without these cells, shape ``(N, D)``, NaN where missing.
    """

    row: NDArray
    column: NDArray
    truth: NDArray
    guess: NDArray
    draws: NDArray
    seen: NDArray

    def of(self, column: int) -> HeldOut:
        """Return the cells of a column."""
        return self._only(self.column == column)

    def among(self, columns: NDArray) -> HeldOut:
        """Return the cells of some columns."""
        return self._only(np.isin(self.column, columns))

    def _only(self, at: NDArray) -> HeldOut:
        draws = self.draws[:, at]
        return HeldOut(
            self.row[at], self.column[at], self.truth[at], self.guess[at], draws, self.seen
        )

    def __len__(self) -> int:
        return len(self.row)


def held_out(
    pair: Any,
    values: NDArray,
    *,
    share: float,
    draws: int,
    num_particles: int,
    rng: np.random.Generator,
    progress: bool,
) -> HeldOut:
    """Hide a share of the observed cells, chosen at random, and impute them.

    Args:
        pair: of a table.
        values: shape ``(N, D)``, NaN where missing.
        share: of the observed cells to hide, at least one.
        draws: from the posterior predictive of each.
        num_particles: of importance sampling, see ``Pair.impute``.
        rng: of the choice; the draws are those of torch's generator.
        progress: show a progress bar.
    """
    observed = np.argwhere(~np.isnan(values))
    chosen = rng.choice(len(observed), max(1, round(share * len(observed))), replace=False)
    row, column = observed[np.sort(chosen)].T
    seen = values.copy()
    seen[row, column] = np.nan
    like = next(pair.parameters())
    x = torch.as_tensor(np.nan_to_num(seen), dtype=like.dtype, device=like.device)
    mask = torch.as_tensor(~np.isnan(seen), device=like.device)
    hidden = torch.zeros_like(mask)
    hidden[torch.as_tensor(row), torch.as_tensor(column)] = True
    guesses, drawn = [], []
    # Rows of which nothing is hidden need no imputation.
    parts = hidden.any(1).nonzero()[:, 0].split(_ROWS_AT_ONCE)
    for rows in tqdm(parts, "held-out cells", disable=not progress, leave=False):
        given, there = (x[rows], mask[rows]), hidden[rows]
        guess = pair.impute(*given, num_particles=num_particles, mean=True)
        several = pair.impute(*given, num_samples=draws, num_particles=num_particles)
        guesses.append(_array(guess[there]))
        drawn.append(_array(several[:, there]))
    # In the precision of the draws, so that ties are seen.
    truth = _array(torch.as_tensor(values[row, column], dtype=like.dtype))
    return HeldOut(row, column, truth, np.concatenate(guesses), np.concatenate(drawn, 1), seen)


def ranks(cells: HeldOut, rng: np.random.Generator) -> NDArray:
    """Return where each cell lies among its draws, uniform on [0, 1] if these are of its law.

    u = (#{draws < x} + U (#{draws = x} + 1)) / (draws + 1), with U uniform: the rank of x, at
    random among ties, so that it is uniform for counts, too, and for any number of draws.

    Source: Czado, Gneiting & Held 2009, "Predictive model assessment for count data", section 2.1.
    """
    below = (cells.draws < cells.truth).sum(0)
    ties = (cells.draws == cells.truth).sum(0)
    return (below + rng.random(len(cells)) * (ties + 1)) / (len(cells.draws) + 1)


@dataclass(frozen=True)
class Coverage:
    """How many cells lie in their central interval of a probability.

    Args:
        level: the probability of the interval.
        count: number of cells.
        share: those inside, from 0 to 1.
        low: the share's confidence interval (Wilson's), as if cells were independent.
        high: likewise.
    """

    level: float
    count: int
    share: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """-1 if intervals are too narrow, 1 if too wide, 0 if neither is shown."""
        return (self.low > self.level) - (self.high < self.level)


def coverages(u: NDArray) -> tuple[Coverage, ...]:
    """Return the coverage at each of `LEVELS`, from what `ranks` returns."""
    found = []
    for level in LEVELS:
        inside = float((np.abs(u - 0.5) <= level / 2).mean())
        low, high = accuracy_interval(inside, len(u), level=CONFIDENCE)
        found.append(Coverage(level, len(u), inside, low, high))
    return tuple(found)


def verdict(covered: tuple[Coverage, ...]) -> str:
    """Say in words whether intervals are too narrow or too wide."""
    wrong = [c for c in covered if c.sign]
    signs = {c.sign for c in wrong}
    if not wrong:
        return "calibrated, as far as these cells show"
    if len(signs) == 2:
        wide, narrow = (
            ", ".join(f"{100 * c.level:g} %" for c in wrong if c.sign == sign) for sign in (1, -1)
        )
        return f"too wide at {wide}, too narrow at {narrow}: the tails are not those of the data"
    slightly = "slightly " if max(abs(c.share - c.level) for c in wrong) < 0.03 else ""
    return f"{slightly}too {'narrow' if signs == {-1} else 'wide'}"


@dataclass(frozen=True)
class ImputationError:
    """The error of the best guesses of a column, beside that of one guess for all cells.

    Args:
        measure: what the errors are.
        error: of the imputation.
        baseline: of the mean, the most frequent category or the median level of the cells seen.
        scale: standard deviation of the cells seen, by which numbers can be divided, or None.
    """

    measure: str
    error: Estimate
    baseline: Estimate
    scale: float | None = None

    @property
    def ratio(self) -> float:
        """Error over that of the baseline; NaN if the baseline makes none."""
        return self.error.mean / self.baseline.mean if self.baseline.mean else math.nan


def imputation_error(cells: HeldOut, kind: str) -> ImputationError | None:
    """Return the error in one column's cells; None without any, or where none is seen.

    Of numbers √(mean (x̂ - x)²); of categories the share that is wrong; of levels the mean of
    their distance.
    """
    seen = cells.seen[:, cells.column[0]] if len(cells) else np.empty(0)
    seen = seen[~np.isnan(seen)]
    if not len(seen):
        return None
    if kind == "ordinal":
        one_guess = np.median(seen)
        levels = [_mean(np.abs(guess - cells.truth)) for guess in (cells.guess, one_guess)]
        return ImputationError("mean distance in levels", levels[0], levels[1])
    if kind in ("binary", "categorical"):
        kinds, counts = np.unique(seen, return_counts=True)
        one_guess = kinds[counts.argmax()]
        wrong = [_mean(cells.truth != guess) for guess in (cells.guess, one_guess)]
        return ImputationError("share wrong", wrong[0], wrong[1])
    roots = [_root_mean((guess - cells.truth) ** 2) for guess in (cells.guess, seen.mean())]
    return ImputationError("root mean squared error", roots[0], roots[1], float(seen.std()))


def calibration(cells: HeldOut) -> Reliability:
    """Compare how probable the best guesses of categories are with how many are right.

    The probability of a guess is the share of draws that agree. The guess comes from particles of
    its own: the most frequent of the same draws would look too probable by their noise.
    """
    agree = (cells.draws == cells.guess).mean(0)
    correct = (cells.guess == cells.truth).astype(float)
    return binned(torch.as_tensor(agree), torch.as_tensor(correct), BINS)


def _mean(values: NDArray) -> Estimate:
    return Estimate.of(torch.as_tensor(values.astype(float)))


def _root_mean(squares: NDArray) -> Estimate:
    mean = _mean(squares)
    root = math.sqrt(mean.mean)
    return Estimate(root, mean.standard_error / (2 * root) if root else 0.0, mean.count)


def _array(values: Tensor) -> NDArray:
    return values.cpu().double().numpy()
