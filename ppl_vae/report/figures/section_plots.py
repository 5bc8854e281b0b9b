"""Plots of the sections that are left out unless asked for."""

from __future__ import annotations

from matplotlib.axes import Axes

from ppl_vae import plots
from ppl_vae.evaluation.calibration_result import Calibration
from ppl_vae.plots.text import literal
from ppl_vae.report.evaluated_pair import EvaluatedPair
from ppl_vae.report.figures.picture import new_axes

MOST_FACTORS = 20
"""So many factors have a line."""


def ranks(pair: EvaluatedPair) -> Axes:
    """Draw the ECDFs of ranks within their band."""
    found = _calibration(pair)
    band = found.lower, found.upper
    ax = new_axes(7, 3.6)
    return plots.rank_ecdf(found.points, found.ecdf, *band, names=found.names, ax=ax)


def expected_coverage(pair: EvaluatedPair) -> Axes:
    """Draw the share of true latents in regions of q."""
    found = _calibration(pair)
    coverage = found.expected_coverage
    if coverage is None:
        raise NotImplementedError("all latents are labels")
    band = found.lower, found.upper
    return plots.expected_coverage(found.points, coverage, *band, ax=new_axes(4.4, 4.4))


def predictive_checks(pair: EvaluatedPair) -> Axes:
    """Draw statistics of the data beside those of replicated data."""
    found = pair.predictive
    if found is None:
        raise NotImplementedError(pair.missing["predictive checks"])
    ax = new_axes(7, 1.1 + 0.35 * len(found.names))
    return plots.predictive_checks(found.names, found.observed, found.replicated, ax=ax)


def factor_information(pair: EvaluatedPair, site: str) -> Axes:
    """Draw the information of the best two dimensions on each factor."""
    scores = pair.disentanglement.get(site)
    if scores is None:
        of = f", {site}" if len(pair.latents.sites) > 1 else ""
        raise NotImplementedError(pair.missing[f"disentanglement{of}"])
    shares = scores.information / scores.entropy
    ordered = shares.sort(0, descending=True)
    lines = min(MOST_FACTORS, len(scores.factors))
    names, estimates = [], {}
    for k, name in enumerate(scores.factors[:lines]):
        best = ", ".join(f"$z_{{{int(j) + 1}}}$" for j in ordered.indices[:2, k])
        names.append(f"{literal(name)}: {best}")
    for place, values in zip(("first", "second"), ordered.values[:, :lines], strict=False):
        estimates[place] = values
    by_chance = (scores.shuffled_information / scores.entropy).amax(0)
    estimates["most on shuffled factors"] = by_chance[:lines]
    ax = new_axes(7, 1.1 + 0.4 * lines)
    return plots.comparison(names, estimates, xlabel="share of the factor's entropy", ax=ax)


def _calibration(pair: EvaluatedPair) -> Calibration:
    if pair.calibration is None:
        raise NotImplementedError(pair.missing["calibration"])
    return pair.calibration
