"""The report on a table in a few sentences."""

from __future__ import annotations

import math

import numpy as np

from ppl_vae.evaluation.classification import Reliability
from ppl_vae.report.table.associations import Associations
from ppl_vae.report.table.column_results import ColumnResults
from ppl_vae.report.table.held_out import Coverage, verdict


def summary(
    columns: list[ColumnResults],
    associations: Associations | None,
    covered: tuple[Coverage, ...],
    calibration: Reliability | None,
) -> list[str]:
    """Return what the numbers say, a sentence for each part of the page."""
    found = [
        _marginals(columns),
        _associations(associations),
        _imputation(columns),
        _intervals(covered),
        _categories(calibration),
    ]
    return [sentence for sentence in found if sentence]


def _marginals(columns: list[ColumnResults]) -> str:
    known = [(c.name, c.distance) for c in columns if c.distance is not None]
    if not known:
        return ""
    apart = [(name, d) for name, d in known if d.is_larger]
    if not apart:
        return (
            f"Columns: synthetic cells are distributed as the real ones in all {len(known)} "
            f"columns, as far as a table of this size shows."
        )
    name, largest = max(apart, key=lambda pair: pair[1].value)
    return (
        f"Columns: synthetic cells differ from the real ones in {len(apart)} of {len(known)} "
        f"columns by more than chance explains, most in {name}: a {largest.measure} distance of "
        f"{largest.value:.3f}, where equal distributions would mostly stay below "
        f"{largest.alike_up_to:.3f}."
    )


def _associations(found: Associations | None) -> str:
    if found is None or math.isnan(found.mean_difference):
        return ""
    return (
        f"Pairs of columns: associations in synthetic rows differ from the real ones by "
        f"{found.mean_difference:.3f} on average; tables of this size drawn from the model differ "
        f"by {found.noise:.3f}."
    )


def _imputation(columns: list[ColumnResults]) -> str:
    ratios = [c.imputation.ratio for c in columns if c.imputation is not None]
    ratios = [ratio for ratio in ratios if not math.isnan(ratio)]
    if not ratios:
        return ""
    better = sum(ratio < 1 for ratio in ratios)
    return (
        f"Imputation: held-out cells are imputed with {np.mean(ratios):.2f} of the error of one "
        f"guess for all cells of a column (its mean, most frequent category or median level), on "
        f"average over columns; with a smaller error in {better} of {len(ratios)}."
    )


def _intervals(covered: tuple[Coverage, ...]) -> str:
    (ninety,) = (c for c in covered if c.level == 0.9) if covered else (None,)
    if ninety is None:
        return ""
    return (
        f"Intervals: {100 * ninety.share:.1f} % of {ninety.count} held-out numbers lie in their "
        f"90 % interval; the intervals are {verdict(covered)}."
    )


def _categories(found: Reliability | None) -> str:
    if found is None:
        return ""
    accuracy = found.overall_accuracy
    sure, right = 100 * found.overall_confidence, 100 * accuracy.mean
    off = found.overall_confidence - accuracy.mean
    if abs(off) <= 2.576 * accuracy.standard_error or math.isnan(accuracy.standard_error):
        words = "as sure as they should be, as far as these cells show"
    else:
        words = "too sure" if off > 0 else "not sure enough"
    return (
        f"Categories: guesses of {accuracy.count} held-out cells have a probability of "
        f"{sure:.1f} % on average, and {right:.1f} % are right; predictions are {words}."
    )
