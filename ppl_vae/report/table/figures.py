"""The figures of the report on a table."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ppl_vae import plots
from ppl_vae.evaluation.classification import Reliability
from ppl_vae.report.figures import Picture, Section
from ppl_vae.report.figures.picture import new_axes, png
from ppl_vae.report.table.associations import Associations
from ppl_vae.report.table.column_results import ColumnResults
from ppl_vae.report.table.held_out import CONFIDENCE, Coverage

MOST_COLUMNS = 60
"""So many columns have a figure."""
MOST_CATEGORIES = 10
"""So many categories of a column are drawn, and the others as one."""


def marginals(columns: list[ColumnResults]) -> Section:
    """Draw each column's real and synthetic cells, of very many columns the most different."""
    drawn = [c for c in columns if c.distance is not None]
    caption = (
        "Blue the observed cells, red those of synthetic rows; the outermost bars also hold what "
        "lies beyond them. The number is the distance of the two, see below."
    )
    if len(drawn) > MOST_COLUMNS:
        drawn = sorted(drawn, key=_excess, reverse=True)[:MOST_COLUMNS]
        caption += f" The {MOST_COLUMNS} columns that differ most of {len(columns)}."
    pictures = []
    for c in drawn:
        apart = c.distance
        assert apart is not None
        words = f"real and synthetic {c.name}: {apart.measure} distance {apart.value:.3f}"
        pictures.append(Picture(f"{c.name}: {apart.value:.3f}", words, png(_marginal(c))))
    return Section("Real and synthetic columns", caption, tuple(pictures), small=True)


def _excess(column: ColumnResults) -> float:
    apart = column.distance
    return 0.0 if apart is None else apart.value - apart.alike_up_to


def _marginal(c: ColumnResults) -> Axes:
    ax = new_axes(3.4, 2.3)
    if not c.column.coded:
        log = is_skewed(np.concatenate([c.real, c.synthetic]))
        plots.histograms(c.real, c.synthetic, log=log, ax=ax)
    else:
        names = [str(category) for category in c.column.categories or ()]
        real, synthetic = (
            np.bincount(x.astype(int), minlength=len(names)) / len(x) for x in (c.real, c.synthetic)
        )
        if len(names) > MOST_CATEGORIES:
            order = np.argsort(-np.maximum(real, synthetic), kind="stable")
            kept, rest = np.sort(order[: MOST_CATEGORIES - 1]), order[MOST_CATEGORIES - 1 :]
            names = [names[k] for k in kept] + [f"{len(rest)} others"]
            real, synthetic = (np.append(p[kept], p[rest].sum()) for p in (real, synthetic))
        plots.shares(real, synthetic, names, ax=ax)
    return ax


def is_skewed(values: NDArray) -> bool:
    """Return whether values, above zero, are more symmetric on a logarithmic axis of a decade."""
    if values.min() <= 0 or values.max() < 10 * values.min():
        return False
    skewness = [abs(_skewness(x)) for x in (values, np.log(values))]
    return skewness[0] > 1 and skewness[1] < skewness[0]


def _skewness(values: NDArray) -> float:
    scale = values.std()
    return float((((values - values.mean()) / scale) ** 3).mean()) if scale > 0 else 0.0


def associations(found: Associations, names: list[str]) -> Section:
    """Draw the matrices of real and synthetic associations, and their difference."""
    apart = found.difference
    known = np.abs(apart[np.isfinite(apart)])
    limit = max(0.1, float(known.max())) if len(known) else 0.1
    size = min(9.0, 2.6 + 0.3 * len(names))
    pictures = []
    matrices = {"Real": (found.real, 1.0), "Synthetic": (found.synthetic, 1.0)}
    matrices["Synthetic minus real"] = (apart, limit)
    for title, (matrix, most) in matrices.items():
        ax = plots.associations(matrix, names, limit=most, ax=new_axes(size, size * 0.9))
        words = f"matrix of associations of {len(names)} columns: {title}"
        pictures.append(Picture(title, words, png(ax)))
    caption = (
        "Spearman's rank correlation of numbers and levels (from -1 to 1), Cramér's V of two "
        "columns of categories, and the correlation ratio of ranks of a column of categories with "
        "one of numbers (both from 0 to 1). Grey: not defined. The difference has its own scale."
    )
    return Section("Associations of pairs of columns", caption, tuple(pictures))


def calibration(covered: tuple[Coverage, ...], reliability: Reliability | None) -> Section:
    """Draw the coverage of intervals of numbers, and the reliability of predicted categories."""
    pictures = []
    if covered:
        numbers = np.array([(c.level, c.share, c.count) for c in covered]).T
        ax = plots.coverage(*numbers, level=CONFIDENCE, ax=new_axes(4.4, 4.4))
        words = ", ".join(f"{c.share:.3f} inside {c.level:g}" for c in covered)
        pictures.append(Picture("Numbers", f"coverage of predictive intervals: {words}", png(ax)))
    if reliability is not None:
        bins = reliability.confidence, reliability.accuracy, reliability.count
        ax = plots.reliability(*bins, ax=new_axes(4.4, 4.4))
        ax.set_xlabel("probability of the guess")
        ax.set_ylabel("share right")
        words = f"reliability diagram of predicted categories: {reliability}"
        pictures.append(Picture("Categories", words, png(ax)))
    caption = "Points on the diagonal are calibrated; below it predictions are too sure."
    return Section("Calibration", caption, tuple(pictures))


def sections(
    columns: list[ColumnResults],
    found: Associations | None,
    covered: tuple[Coverage, ...],
    reliability: Reliability | None,
) -> dict[str, Section]:
    """Draw all figures, by the part of the page that they belong to."""
    drawn = {"marginals": marginals(columns)}
    if found is not None:
        names = [c.name for c in columns]
        drawn["associations"] = associations(found, names)
    drawn["calibration"] = calibration(covered, reliability)
    return drawn
