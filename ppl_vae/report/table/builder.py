"""Evaluating a VAE of a table and writing the report."""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ppl_vae.errors import describe, flag, integer, number, positive_int, quoted, seed_of
from ppl_vae.evaluation.classification import Reliability
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.pareto import NOT_COMPUTED
from ppl_vae.process_state import seeded
from ppl_vae.report.evaluated_pair import recorded_warnings
from ppl_vae.report.files import made_now, versions, versions_in_words, write
from ppl_vae.report.options import destination
from ppl_vae.report.page import render
from ppl_vae.report.quantities import Quantity, absent, count, nats, plain
from ppl_vae.report.results import TableReport
from ppl_vae.report.table.associations import Associations, compared
from ppl_vae.report.table.column_results import (
    ColumnResults,
    column_results,
    coverage_quantities,
)
from ppl_vae.report.table.examples import examples as examples_of
from ppl_vae.report.table.held_out import (
    CONFIDENCE,
    HeldOut,
    calibration,
    coverages,
)
from ppl_vae.report.table.held_out import held_out as hide_and_impute
from ppl_vae.report.table.summary import summary
from ppl_vae.tables import TableVAE
from ppl_vae.tables.frames import Frame
from ppl_vae.tables.likelihood import log_likelihood, warn_of_rows

FORMAT = 1
LARGEST = 10
"""So many pairs of columns whose associations differ most are listed."""
_SYNTHETIC_ROWS = 5000
_FEWEST_TABLES, _MOST_TABLES = 10, 50
"""Synthetic tables, each as long as the real one, to make so many rows."""
_OWNER = "table_report"


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Arguments of :func:`table_report` that are numbers and flags, checked."""

    held_out: float
    draws: int
    num_data: int | None
    num_samples: int
    num_particles: int
    examples: int
    seed: int
    progress: bool
    figures: bool

    def __post_init__(self) -> None:
        checked: dict[str, object] = {"seed": seed_of(_OWNER, self.seed)}
        checked["held_out"] = float(number(_OWNER, "held_out", self.held_out, above=0, below=1))
        checked["draws"] = integer(
            _OWNER, "draws", self.draws, 39, "intervals of 95 % need so many draws of each cell"
        )
        if self.num_data is not None:
            checked["num_data"] = integer(_OWNER, "num_data", self.num_data, 2, "give None for all")
        for name in ("num_samples", "num_particles"):
            checked[name] = positive_int(_OWNER, name, getattr(self, name))
        checked["examples"] = integer(_OWNER, "examples", self.examples, 0)
        for name in ("progress", "figures"):
            checked[name] = flag(_OWNER, name, getattr(self, name))
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def table_report(
    vae: TableVAE,
    frame: Frame,
    out: str | Path,
    *,
    held_out: int | float = 0.1,
    draws: int = 199,
    num_data: int | None = 1000,
    num_samples: int = 1000,
    num_particles: int = 1000,
    examples: int = 5,
    seed: int = 0,
    progress: bool = False,
    figures: bool = True,
) -> TableReport:
    r"""Evaluate a VAE of a table on other rows, and write an HTML page and a JSON file.

    The page says, for each column, how synthetic cells are distributed beside the real ones, and
    how well cells that are held out are imputed; how pairs of columns are associated in real and
    in synthetic rows; and whether intervals and predicted probabilities hold what they promise.
    Every number has its error, or what chance alone would give, beside it. The files are as those
    of :func:`ppl_vae.report.report`.

    ============  ======================================================================
    log p         nats per row, of the observed cells, by importance sampling
    a column      Kolmogorov-Smirnov distance (numbers), total variation (categories), and
                  the 95 % point of the distance between samples of one distribution
    a pair        Spearman's correlation, Cramér's V or the correlation ratio, and how much
                  it varies between synthetic tables as long as the real one
    imputation    root mean squared error, share wrong, mean distance in levels, beside the
                  column's mean, most frequent category or median level
    calibration   share of held-out numbers in central 50, 80, 90, 95 % intervals of the draws,
                  with Wilson's 99 % interval; calibration error of categories
    ============  ======================================================================

    Args:
        vae: fitted.
        frame: a table of its schema, of rows that it was not trained on: on others all numbers are
            too good.
        out: a folder, for ``report.html`` and ``report.json``, or a path ending in ``.html``.
        held_out: share of the observed cells to hide, at random, and impute from the others.
        draws: of each hidden cell, 39 or more.
        num_data: size of a random subset of the rows to evaluate on; None for all.
        num_samples: of importance sampling of log p, per row.
        num_particles: of importance sampling of imputation, per row.
        examples: rows whose hidden cells are shown.
        seed: of all that is random; the global random state is restored.
        progress: show progress bars.
        figures: draw figures; without them the page has the tables alone.

    Returns:
        The paths of the files, and the numbers; ``print`` shows them in short.

    Raises:
        OSError: if ``out`` cannot be written; checked before anything is computed.
        TypeError: if an argument has another type.
        ValueError: if the table is not of the schema, has fewer than two rows, or an argument is
            out of range.
        sklearn.exceptions.NotFittedError: if ``vae`` is not fitted.

    Example:
        >>> import pandas as pd
        >>> from ppl_vae import report, tables
        >>> people = pd.read_csv("people.csv")  # doctest: +SKIP
        >>> vae = tables.fit(people[:4000])  # doctest: +SKIP
        >>> print(report.table_report(vae, people[4000:], "runs/people"))  # doctest: +SKIP
    """
    started = time.perf_counter()
    if not isinstance(vae, TableVAE):
        raise TypeError(f"{_OWNER}: vae must be a TableVAE, got {describe(vae)}")
    page_path, json_path = destination(out, _OWNER)
    options = TableOptions(
        held_out=held_out,
        draws=draws,
        num_data=num_data,
        num_samples=num_samples,
        num_particles=num_particles,
        examples=examples,
        seed=seed,
        progress=progress,
        figures=figures,
    )
    table = _values(vae, frame)
    rng = np.random.default_rng(options.seed)
    rows = np.arange(len(table))
    if options.num_data is not None and options.num_data < len(table):
        rows = np.sort(rng.choice(len(table), options.num_data, replace=False))
    found = _evaluate(vae, table[rows], options, rng)
    shown = examples_of(found.cells, vae.schema_, rows, options.examples, rng)
    facts = {
        "rows": f"{_name(frame)}: {_count(rows, table)}, {len(vae.schema_)} columns, "
        f"{np.isnan(table[rows]).mean():.1%} of the cells missing",
        "cells held out": f"{len(found.cells)}, chosen at random among those observed",
        "synthetic rows": f"{found.synthetic_rows}, in tables of {len(rows)}",
        "seed": str(options.seed),
        "versions": versions_in_words(),
        "made": made_now(),
    }
    drawn = _figures(found) if options.figures else {}
    sentences = summary(found.columns, found.associations, found.covered, found.calibration)
    facts["time"] = f"{time.perf_counter() - started:.0f} s"
    results = {
        "format": FORMAT,
        "data": {"name": _name(frame), "number": len(rows), "of": len(table)},
        "options": asdict(options),
        "versions": versions(),
        "made": facts["made"],
        "seconds": time.perf_counter() - started,
        "summary": sentences,
        "warnings": found.warnings,
        "schema": vae.schema_.to_dict(),
        "quantities": _json(found.rows),
        "columns": {c.name: c.as_json() for c in found.columns},
        "associations": _associations_json(found),
        "intervals": _json(coverage_quantities(found.covered)),
        "examples": [asdict(example) for example in shown],
    }
    html = render(
        "table.html",
        title=f"Report on {_name(frame)}",
        warnings=[("", text) for text in found.warnings],
        left_out=[] if options.figures else ["Figures, as figures=False."],
        facts=facts,
        summary=sentences,
        found=found,
        schema=vae.schema_,
        examples=shown,
        sections=drawn,
        confidence=CONFIDENCE,
        options=asdict(options),
        vae=vae,
    )
    write(page_path, json_path, html, results)
    return TableReport(page_path, json_path, results)


@dataclass(frozen=True, eq=False)
class Found:
    """All that is known of a table's VAE; see :func:`table_report`."""

    rows: dict[str, Quantity]
    columns: list[ColumnResults]
    associations: Associations | None
    cells: HeldOut
    covered: tuple[Any, ...]
    calibration: Reliability | None
    warnings: list[str]
    synthetic_rows: int

    def labels(self, part: str) -> list[str]:
        """Return the labels of the quantities that columns have in a part of the page."""
        return list(dict.fromkeys(label for c in self.columns for label in getattr(c, part)))

    @property
    def differences(self) -> list[tuple[str, str, dict[str, Quantity]]]:
        """The pairs of columns whose associations differ most, with their numbers."""
        if self.associations is None:
            return []
        a = self.associations
        return [
            (
                self.columns[i].name,
                self.columns[j].name,
                {
                    "real": plain(a.real[i, j], 3),
                    "synthetic": plain(a.synthetic[i, j], 3),
                    "difference": plain(a.difference[i, j], 3),
                    "varies by": plain(a.error[i, j], 3),
                },
            )
            for i, j in a.largest(LARGEST)
        ]

    @property
    def means(self) -> dict[str, Quantity]:
        """The mean difference of associations, and what chance gives."""
        if self.associations is None:
            return {}
        a = self.associations
        return {
            "mean difference": plain(a.mean_difference, 3),
            "mean difference between synthetic tables": plain(a.noise, 3),
        }

    @property
    def overall(self) -> dict[str, Quantity]:
        """The coverage of intervals of all numbers."""
        return coverage_quantities(self.covered)


def _values(vae: TableVAE, frame: Frame) -> NDArray:
    """Return the encoded table, NaN where missing."""
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(vae, "pair_")
    table, _ = vae.schema_.encode(frame)
    if len(table) < 2:
        raise ValueError(f"{_OWNER}: the table must have 2 rows or more, got {len(table)}")
    if np.isnan(table).all():
        raise ValueError(f"{_OWNER}: the table must have an observed cell, got none")
    return table


def _evaluate(
    vae: TableVAE, values: NDArray, options: TableOptions, rng: np.random.Generator
) -> Found:
    warnings: list[str] = []
    if vae.pair_.missingness is not None:
        warnings.append(
            "The model takes cells to be missing for their values, but those held out here were "
            "chosen at random: imputation and calibration are of cells that were not hidden for "
            "that reason."
        )
    with recorded_warnings(warnings):
        rows = _log_prob(vae, values, options)
    with seeded(_OWNER, options.seed):
        synthetic = _synthetic(vae, len(values))
        cells = hide_and_impute(
            vae.pair_,
            values,
            share=options.held_out,
            draws=options.draws,
            num_particles=options.num_particles,
            rng=rng,
            progress=options.progress,
        )
    columns = [
        column_results(
            column,
            type(family).__name__,
            values[:, j],
            synthetic[:, :, j].ravel(),
            cells.of(j),
            rng,
        )
        for j, (column, family) in enumerate(zip(vae.schema_, vae.columns_, strict=True))
    ]
    coded = [j for j, column in enumerate(vae.schema_) if column.coded]
    categories = cells.among(np.array(coded))
    of_numbers = [c.ranks for c in columns if c.ranks is not None]
    associations = None
    if len(columns) > 1:
        nominal = [c.column.kind in ("binary", "categorical") for c in columns]
        associations = compared(values, synthetic, nominal)
    return Found(
        rows,
        columns,
        associations,
        cells,
        coverages(np.concatenate(of_numbers)) if of_numbers else (),
        calibration(categories) if len(categories) else None,
        warnings,
        synthetic.shape[0] * synthetic.shape[1],
    )


def _log_prob(vae: TableVAE, values: NDArray, options: TableOptions) -> dict[str, Quantity]:
    like = next(vae.pair_.parameters())
    x = torch.as_tensor(np.nan_to_num(values), dtype=like.dtype, device=like.device)
    mask = torch.as_tensor(~np.isnan(values), device=like.device)
    result = log_likelihood(
        vae.pair_,
        x,
        mask,
        num_samples=options.num_samples,
        seed=options.seed,
        progress=options.progress,
    )
    warn_of_rows("table_report", result, options.num_samples)
    error, samples = result.monte_carlo_error, options.num_samples
    return {
        "log p per row": nats(Estimate.of(result.log_px)),
        "Monte Carlo error of the mean": absent("not computed: a single sample", "nats")
        if math.isnan(error)
        else plain(error, 4, "nats"),
        f"median effective sample size of {samples}": plain(result.ess.median().item(), 0),
        "rows with k̂ > 0.7": count(result.unreliable, len(values))
        if result.has_pareto_k
        else absent(NOT_COMPUTED, f"of {len(values)}"),
    }


def _synthetic(vae: TableVAE, length: int) -> NDArray:
    """Return synthetic tables ``(R, length, D)``, with cells as their dtypes hold them."""
    number = math.ceil(_SYNTHETIC_ROWS / length)
    number = min(max(number, _FEWEST_TABLES), _MOST_TABLES)
    rows = vae.pair_.generate(number * length).cpu().double().numpy()
    values, _ = vae.schema_.encode(vae.schema_.decode(rows))
    return values.reshape(number, length, -1)


def _figures(found: Found) -> dict[str, Any]:
    from ppl_vae.report.table.figures import sections  # imports matplotlib

    return sections(found.columns, found.associations, found.covered, found.calibration)


def _associations_json(found: Found) -> dict[str, Any] | None:
    if found.associations is None:
        return None
    a = found.associations
    matrices = {
        field.name: _nested(getattr(a, field.name)) for field in fields(a) if field.name != "noise"
    }
    differences = [
        {"columns": [one, other], **_json(quantities)}
        for one, other, quantities in found.differences
    ]
    return {**matrices, "quantities": _json(found.means), "largest": differences}


def _json(quantities: dict[str, Quantity]) -> dict[str, Any]:
    return {label: quantity.as_json() for label, quantity in quantities.items()}


def _nested(matrix: NDArray) -> list[list[float | None]]:
    return [[value if math.isfinite(value) else None for value in row] for row in matrix.tolist()]


def _name(frame: Frame) -> str:
    if isinstance(frame, (str, os.PathLike)):
        return quoted(Path(frame).name, 80)[1:-1]
    return "a table"


def _count(rows: NDArray, table: NDArray) -> str:
    if len(rows) == len(table):
        return f"{len(rows)} rows"
    return f"{len(rows)} of {len(table)} rows, chosen at random"
