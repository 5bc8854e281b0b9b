"""Plots of all pairs side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from ppl_vae import plots
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.plots.text import literal
from ppl_vae.report.comparability import DataSpace, comparable_groups
from ppl_vae.report.evaluated_pair import EvaluatedPair
from ppl_vae.report.figures.picture import Picture, new_axes, png
from ppl_vae.report.quantities import bits, nats

MISSING = Estimate(math.nan, math.nan)


def elbo_terms(pairs: list[EvaluatedPair]) -> tuple[Picture, ...]:
    """Draw the terms of the negative ELBO and of the KL of each pair."""
    nelbo: dict[str, dict[str, float]] = {}
    kl: dict[str, dict[str, float]] = {}
    for pair in pairs:
        terms, split = pair.terms, pair.decomposition
        if terms is None:
            continue
        nelbo[pair.name] = {"reconstruction": terms.reconstruction.mean, "KL": terms.kl.mean}
        if split is None:
            continue
        kl[pair.name] = {"mutual information": split.mutual_information.mean}
        if split.total_correlation is not None and split.dimension_wise_kl is not None:
            kl[pair.name]["total correlation"] = split.total_correlation.mean
            kl[pair.name]["dimension-wise KL"] = split.dimension_wise_kl.mean
        else:
            kl[pair.name]["marginal KL"] = split.marginal_kl.mean
    drawn = {}
    for title, group, _ in _groups(pairs, bits=False):
        bars = {pair.name: nelbo[pair.name] for pair in group if pair.name in nelbo}
        drawn[f"the negative ELBO{title and ', '}{title}"] = bars
    pictures = []
    for title, bars in (*drawn.items(), ("the KL", kl)):
        if not bars:
            pictures.append(Picture(title, "", reason="its terms are unknown; see below"))
            continue
        words = "; ".join(
            f"{name}: " + ", ".join(f"{term} {value:.2f}" for term, value in terms.items())
            for name, terms in bars.items()
        )
        alt = f"stacked bars of {title} in nats: {words}"
        pictures.append(Picture(title, alt, png(_stacked_bars(bars))))
    return tuple(pictures)


def _stacked_bars(bars: dict[str, dict[str, float]]) -> Axes:
    """Draw a horizontal bar of stacked terms for each name, with negative terms to the left."""
    ax = new_axes(7, 1.1 + 0.5 * len(bars))
    names = list(dict.fromkeys(term for terms in bars.values() for term in terms))
    for row, terms in enumerate(bars.values()):
        right = left = 0.0
        for term, value in terms.items():
            kind = names.index(term)
            ax.barh(
                row,
                value,
                left=right if value >= 0 else left,
                height=0.6,
                color=plots.colours.colour(kind),
                hatch=plots.colours.hatch(kind),
                edgecolor="white",
                linewidth=0,
                label=term,
            )
            right, left = right + max(value, 0), left + min(value, 0)
        ax.annotate(f" {sum(terms.values()):.2f}", (right, row), va="center", fontsize="small")
    ax.set_yticks(range(len(bars)), [literal(name) for name in bars])
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.set_xlabel("nats per datum")
    by_term = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    ax.figure.legend(
        by_term.values(), by_term.keys(), loc="outside upper center", ncols=4, fontsize="small"
    )
    return ax


def bounds(pairs: list[EvaluatedPair]) -> tuple[Picture, ...]:
    """Draw the bounds of all pairs, with one axis for each group of comparable pairs."""
    pictures = []
    for title, group, in_bits in _groups(pairs, bits=True):
        unit, quantity = ("bits per dimension", bits) if in_bits else ("nats per datum", nats)
        tables = {pair.name: pair.bounds for pair in group}
        if in_bits:
            tables = {
                pair.name: {k: _data_space(pair).bits(v) for k, v in pair.bounds.items()}
                for pair in group
            }
        labels = dict.fromkeys(label for table in tables.values() for label in table)
        values, errors = (
            {k: [getattr(t.get(k, MISSING), part) for t in tables.values()] for k in labels}
            for part in ("mean", "standard_error")
        )
        ax = new_axes(7, 1.6 + 0.7 * len(tables))
        plots.comparison([literal(name) for name in tables], values, errors, xlabel=unit, ax=ax)
        words = "; ".join(
            f"{name}: " + ", ".join(f"{k} {quantity(v).text}" for k, v in table.items())
            for name, table in tables.items()
        )
        pictures.append(Picture(title or "all pairs", f"in {unit}, {words}", png(ax)))
    return tuple(pictures)


def training(pairs: list[EvaluatedPair], history: Mapping[str, ArrayLike]) -> tuple[Picture, ...]:
    """Draw training curves, with one axis for each group of comparable pairs."""
    groups = [
        (title, {pair.name for pair in group} & history.keys())
        for title, group, _ in _groups(pairs, bits=False)
    ]
    if set().union(*(names for _, names in groups)) != set(history):  # not only curves of pairs
        groups = [("", set(history))]
    pictures = []
    for title, names in groups:
        curves = {name: curve for name, curve in history.items() if name in names}
        if not curves:
            continue
        words = f"training curves of {', '.join(curves)}"
        ax = plots.curves(curves, ax=new_axes(7, 3.6))
        pictures.append(Picture(title or "training", words, png(ax)))
    return tuple(pictures)


def _groups(
    pairs: list[EvaluatedPair], *, bits: bool
) -> list[tuple[str, list[EvaluatedPair], bool]]:
    """Return title, pairs and whether in bits of each group; a single group has no title."""
    groups = comparable_groups({pair.name: _data_space(pair) for pair in pairs}, bits)
    titles = map(str, groups) if len(groups) > 1 else [""]
    return [
        (title, [pair for pair in pairs if pair.name in group.names], group.in_bits)
        for title, group in zip(titles, groups, strict=True)
    ]


def _data_space(pair: EvaluatedPair) -> DataSpace:
    assert pair.data_space is not None
    return pair.data_space
