"""Pictures of all pairs side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ppl_vae import plots
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.report.pictures.parts import Drawn, Picture, literal, new_figure, png
from ppl_vae.report.quantities import Quantity, bits, nats
from ppl_vae.report.target import Comparable, Target, in_nats, in_nats_or_bits


def stacks(drawn: list[Drawn]) -> tuple[Picture, ...]:
    """Draw what the negative ELBO and the KL of each pair are made of."""
    whole: dict[str, dict[str, float]] = {}
    split: dict[str, dict[str, float]] = {}
    for of in drawn:
        terms, parts = of.measured.terms, of.measured.decomposition
        if terms is None:
            continue
        whole[of.subject.name] = {
            "reconstruction": terms.reconstruction.mean,
            "KL": terms.kl.mean,
        }
        if parts is None:
            continue
        split[of.subject.name] = {"mutual information": parts.mutual_information.mean}
        if parts.total_correlation is not None and parts.dimension_wise_kl is not None:
            split[of.subject.name] |= {
                "total correlation": parts.total_correlation.mean,
                "dimension-wise KL": parts.dimension_wise_kl.mean,
            }
        else:
            split[of.subject.name]["marginal KL"] = parts.marginal_kl.mean
    groups = [
        (
            f"the negative ELBO{title and ', '}{title}",
            {of.subject.name: whole[of.subject.name] for of in group if of.subject.name in whole},
        )
        for title, group, _ in _groups(drawn, in_nats)
    ]
    pictures = []
    for title, bars in (*groups, ("the KL", split)):
        if not bars:
            pictures.append(Picture(title, "", reason="the terms cannot be told apart; see below"))
            continue
        terms_in_words = "; ".join(
            f"{name}: " + ", ".join(f"{term} {value:.2f}" for term, value in terms.items())
            for name, terms in bars.items()
        )
        pictures.append(
            Picture(title, f"stacked bars of {title} in nats: {terms_in_words}", png(_bars(bars)))
        )
    return tuple(pictures)


def _bars(bars: dict[str, dict[str, float]]) -> Figure:
    """Draw a horizontal bar of stacked terms for each name; what is negative goes to the left."""
    figure, ax = new_figure(7, 1.1 + 0.5 * len(bars))
    kinds = list(dict.fromkeys(term for terms in bars.values() for term in terms))
    for row, terms in enumerate(bars.values()):
        right = left = 0.0
        for term, value in terms.items():
            start = right if value >= 0 else left
            kind = kinds.index(term)
            ax.barh(
                row,
                value,
                left=start,
                height=0.6,
                color=plots.colours.colour(kind),
                hatch=("", "//", "..", "xx")[kind % 4],
                edgecolor="white",
                linewidth=0,
                label=term,
            )
            right, left = right + max(value, 0), left + min(value, 0)
        # The sum stands beside its bar.
        ax.annotate(f" {sum(terms.values()):.2f}", (right, row), va="center", fontsize="small")
    ax.set_yticks(range(len(bars)), [literal(name) for name in bars])
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.set_xlabel("nats per datum")
    by_term = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(
        by_term.values(), by_term.keys(), loc="outside upper center", ncols=4, fontsize="small"
    )
    return figure


def comparisons(drawn: list[Drawn]) -> tuple[Picture, ...]:
    """Draw the bounds of all pairs, on one axis those alone that can be compared."""
    pictures = []
    for title, group, in_bits in _groups(drawn, in_nats_or_bits):
        tables = {}
        for of in group:
            bounds = _bounds(of)
            if in_bits:
                tables[of.subject.name] = {k: bits(_target(of).bits(v)) for k, v in bounds.items()}
            else:
                tables[of.subject.name] = {k: nats(v) for k, v in bounds.items()}
        unit = "bits per dimension" if in_bits else "nats per datum"
        pictures.append(_comparison(title or "all pairs", tables, unit))
    return tuple(pictures)


def training(drawn: list[Drawn], history: Mapping[str, ArrayLike]) -> tuple[Picture, ...]:
    """Draw training curves, on one axis those alone whose losses can be compared."""
    groups = [
        (title, {of.subject.name for of in group} & history.keys())
        for title, group, _ in _groups(drawn, in_nats)
    ]
    if len(set().union(*(names for _, names in groups))) < len(history):  # some are of no pair
        groups = [("", set(history))]
    pictures = []
    for title, names in groups:
        curves = {name: curve for name, curve in history.items() if name in names}
        if not curves:
            continue
        figure, ax = new_figure(7, 3.6)
        plots.curves(curves, ax=ax)
        words = f"training curves of {', '.join(curves)}"
        pictures.append(Picture(title or "training", words, png(figure)))
    return tuple(pictures)


def _groups(
    drawn: list[Drawn], kind: Callable[[Mapping[str, Target]], list[Comparable]]
) -> list[tuple[str, list[Drawn], bool]]:
    """Return title, members and whether in bits of each group; the only one has no title."""
    groups = kind({of.subject.name: _target(of) for of in drawn})
    return [
        (
            str(group) if len(groups) > 1 else "",
            [of for of in drawn if of.subject.name in group.names],
            group.in_bits,
        )
        for group in groups
    ]


def _comparison(title: str, tables: Mapping[str, Mapping[str, Quantity]], unit: str) -> Picture:
    """Draw the bounds of some pairs."""
    figure, ax = new_figure(7, 1.6 + 0.7 * len(tables))
    chosen = dict.fromkeys(bound for table in tables.values() for bound in table)
    values, errors = (
        {bound: [_of(table, bound, part) for table in tables.values()] for bound in chosen}
        for part in ("value", "standard_error")
    )
    plots.comparison([literal(name) for name in tables], values, errors, xlabel=unit, ax=ax)
    words = "; ".join(
        f"{name}: " + ", ".join(f"{bound} {q.text}" for bound, q in table.items())
        for name, table in tables.items()
    )
    return Picture(title, f"in {unit}, {words}", png(figure))


def _bounds(of: Drawn) -> dict[str, Estimate]:
    """Return NELBO, IWAE and IS in nats; IWAE-1 is the NELBO, and is left out beside it."""
    table = of.measured.quantities
    return {
        name: Estimate(q.value, math.nan if q.standard_error is None else q.standard_error)
        for name, q in table.items()
        if name == "NELBO"
        or (name.startswith("IWAE-") and not (name == "IWAE-1" and "NELBO" in table))
        or (name.startswith("IS-") and name[3:].isdigit())
    }


def _target(of: Drawn) -> Target:
    assert of.measured.target is not None
    return of.measured.target


def _of(table: Mapping[str, Quantity], name: str, part: str) -> int | float:
    value = getattr(table[name], part) if name in table else None
    return math.nan if value is None else value
