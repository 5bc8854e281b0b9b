"""Pictures of all pairs side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from ppl_vae import plots
from ppl_vae.evaluation.reporting.pictures.parts import Drawn, Picture, literal, new_figure, png


def stacks(drawn: list[Drawn]) -> tuple[Picture, ...]:
    """Draw what the negative ELBO and the KL of each pair are made of."""
    whole, split = {}, {}
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
    pictures = []
    for title, bars in (("the negative ELBO", whole), ("the KL", split)):
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


def comparison(drawn: list[Drawn]) -> Figure:
    """Draw the bounds of all pairs."""
    tables = [of.measured.quantities for of in drawn]
    chosen = [name for name in tables[0] if _is_bound(name)]
    figure, ax = new_figure(7, 1.6 + 0.7 * len(drawn))
    values, errors = (
        {
            name: [_of(table, name, part) for table in tables]
            for name in chosen
            if any(name in table for table in tables)
        }
        for part in ("value", "standard_error")
    )
    plots.comparison([literal(of.subject.name) for of in drawn], values, errors, ax=ax)
    return figure


def words(drawn: list[Drawn]) -> str:
    """Say the same in words."""
    return "; ".join(
        f"{of.subject.name}: "
        + ", ".join(f"{n} {q.text}" for n, q in of.measured.quantities.items() if _is_bound(n))
        for of in drawn
    )


def _is_bound(name: str) -> bool:
    return (
        name == "NELBO"
        or name.startswith("IWAE-")
        or (name.startswith("IS-") and name[3:].isdigit())
    )


def _of(table: Mapping[str, Any], name: str, part: str) -> int | float:
    value = getattr(table[name], part) if name in table else None
    return math.nan if value is None else value
