"""What is known of each column of a table, as numbers for the page and for JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.evaluation.classification import Reliability
from ppl_vae.report.quantities import Quantity, absent, measured, plain
from ppl_vae.report.table.held_out import (
    Coverage,
    HeldOut,
    ImputationError,
    calibration,
    coverages,
    imputation_error,
    ranks,
    verdict,
)
from ppl_vae.report.table.marginals import Distance, distance
from ppl_vae.tables import Column

NO_CELL = "no cell observed"
NONE_HELD_OUT = "no cell held out"


@dataclass(frozen=True, eq=False)
class ColumnResults:
    """A column with its results.

    Args:
        column: of the schema.
        family: the class of its distribution.
        real: the observed cells.
        synthetic: synthetic ones.
        distance: between the two; None if no cell is observed.
        imputation: the error in held-out cells; None if there are none.
        ranks: of the held-out numbers among their draws; None for categories, or without any.
        calibration: of the held-out categories' probabilities; None for numbers, or without any.
    """

    column: Column
    family: str
    real: NDArray
    synthetic: NDArray
    distance: Distance | None
    imputation: ImputationError | None
    ranks: NDArray | None
    calibration: Reliability | None

    @property
    def name(self) -> str:
        """Name of the column."""
        return str(self.column.name)

    @property
    def coverages(self) -> tuple[Coverage, ...]:
        """Of the intervals of a column of numbers."""
        return () if self.ranks is None else coverages(self.ranks)

    @property
    def marginal(self) -> dict[str, Quantity]:
        """The distance of real and synthetic cells."""
        if self.distance is None:
            return {"distance": absent(NO_CELL)}
        found = self.distance
        return {
            "distance": plain(found.value, 3, found.measure),
            "alike up to": plain(found.alike_up_to, 3, found.measure),
        }

    @property
    def difference(self) -> str:
        """Whether the distance is larger than chance explains, in words."""
        return "" if self.distance is None or not self.distance.is_larger else "differs"

    @property
    def imputed(self) -> dict[str, Quantity]:
        """The errors of imputation."""
        found = self.imputation
        if found is None:
            return {"error": absent(NONE_HELD_OUT)}
        of_scale = found.scale and found.error.mean / found.scale
        return {
            "error": measured(found.error, found.measure),
            "error / standard deviation": plain(of_scale, 2) if of_scale else absent(""),
            "error of one guess for all": measured(found.baseline, found.measure),
            "error / error of one guess": absent("no error to compare with")
            if math.isnan(found.ratio)
            else plain(found.ratio, 2),
        }

    @property
    def inside(self) -> dict[str, Quantity]:
        """The shares of held-out numbers inside intervals."""
        return coverage_quantities(self.coverages)

    @property
    def verdict(self) -> str:
        """Whether intervals of numbers are too narrow or too wide, in words."""
        return verdict(self.coverages)

    @property
    def predicted(self) -> dict[str, Quantity]:
        """How well predicted probabilities of categories are calibrated."""
        if self.calibration is None:
            return {}
        correct = self.calibration.overall_accuracy
        return {
            "probability of the guess": plain(self.calibration.overall_confidence, 3, "share"),
            "share right": measured(correct, "share"),
            "calibration error": plain(self.calibration.error, 3, "share"),
        }

    def as_json(self) -> dict[str, Any]:
        """Return the numbers as JSON."""
        quantities = self.marginal | self.imputed | self.inside | self.predicted
        return {
            "kind": self.column.kind,
            "family": self.family,
            "observed": len(self.real),
            "held_out": 0 if self.imputation is None else self.imputation.error.count,
            "quantities": {label: q.as_json() for label, q in quantities.items()},
            "intervals": self.verdict if self.coverages else None,
        }


def column_results(
    column: Column,
    family: str,
    real: NDArray,
    synthetic: NDArray,
    cells: HeldOut,
    rng: np.random.Generator,
) -> ColumnResults:
    """Compute everything about one column.

    Args:
        column: of the schema.
        family: the class of its distribution.
        real: cells of the table, shape ``(N,)``, NaN where missing.
        synthetic: cells of synthetic tables, shape ``(M,)``.
        cells: those of the column that were held out.
        rng: of the permutations and of ranks among ties.
    """
    observed = real[~np.isnan(real)]
    apart = None
    if len(observed):
        apart = distance(observed, synthetic, coded=column.coded, rng=rng)
    reliability = place = None
    if len(cells) and column.coded:
        reliability = calibration(cells)
    elif len(cells):
        place = ranks(cells, rng)
    error = imputation_error(cells, column.kind)
    return ColumnResults(column, family, observed, synthetic, apart, error, place, reliability)


def coverage_quantities(covered: tuple[Coverage, ...]) -> dict[str, Quantity]:
    """Return the shares of cells inside intervals, by the intervals' probability."""
    found = {}
    for c in covered:
        text = f"{100 * c.share:.1f} % ({100 * c.low:.1f} to {100 * c.high:.1f})"
        error = math.sqrt(c.share * (1 - c.share) / c.count)
        found[f"inside {100 * c.level:g} %"] = Quantity(c.share, error, "share", text)
    return found
