"""The numbers of the sections that are left out unless asked for, and their verdicts in words."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ppl_vae import evaluation
from ppl_vae.evaluation.calibration_result import EXPECTED_COVERAGE
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.simulated import takes_size
from ppl_vae.report.evaluated_pair import EvaluatedPair
from ppl_vae.report.options import Options
from ppl_vae.report.quantities import (
    Quantity,
    absent,
    count,
    measured,
    plain,
    probability,
    share,
)

NUM_DRAWS = 99
"""Draws of q for each simulation: shares of them are in steps of a hundredth."""
CREDIBILITY = 0.9
"""Of the regions of q whose coverage is in the table."""
LEVEL = 0.05
"""A statistic whose adjusted predictive p-value is at most this is in the verdict."""
OWN = 0.5
"""A factor has a dimension of its own if its gap is so much of its entropy."""
BY_CHANCE = 0.1
"""Information on shuffled factors, as a share of their entropy, from which there is a warning."""


def calibration(found: EvaluatedPair, options: Options) -> None:
    """Add simulation-based calibration of q(z | x), on data of the model itself.

    Contexts and masks are those of the data, over and over if there are too few.
    """
    inputs = found.inputs
    index = torch.arange(options.num_simulations, device=inputs.x.device) % len(inputs.x)
    like = None if takes_size(inputs.pair.model) else inputs.x[index]
    with found.attempt("calibration"):
        result = evaluation.calibration(
            inputs.pair,
            *(c[index] for c in inputs.context),
            num_simulations=options.num_simulations,
            num_draws=NUM_DRAWS,
            mask=None if inputs.mask is None else inputs.mask[index],
            like=like,
            seed=options.seed,
            progress=options.progress,
        )
        found.calibration = result
        table = found.quantities
        table["quantities outside their calibration bands"] = count(
            len(result.wrong), len(result.quantities)
        )
        table["calibration p-value of all"] = probability(result.p_value)
        if EXPECTED_COVERAGE in result.names:
            inside = result[EXPECTED_COVERAGE].ranks < round(CREDIBILITY * (NUM_DRAWS + 1))
            covered = Estimate.of(inside)
            label = f"true z in {100 * CREDIBILITY:g} % regions of q(z|x)"
            table[label] = share(covered, evaluation.accuracy_interval(covered, len(inside)))
        for site, reliability in result.reliability.items():
            label = f"calibration error of q({site}|x) on simulated data"
            table[label] = plain(reliability.error, 4, "share")
        found.verdicts["calibration"] = "; ".join(filter(None, (result.verdict, result.words)))
        found.details["calibration"] = {
            q.name: {"p_value": q.p_value, "inside": q.inside, "words": q.words}
            for q in result.quantities
        }


def predictive_checks(found: EvaluatedPair, options: Options) -> None:
    """Add p-values of statistics of the data among those of data sets that the model draws."""
    with found.attempt("predictive checks", ValueError):
        result = found.inputs.evaluate(
            evaluation.predictive_checks,
            num_draws=options.num_replicates,
            seed=options.seed,
            progress=options.progress,
        )
        found.predictive = result
        columns = result.names, result.p_value.tolist(), result.standard_error.tolist()
        for name, p, error in zip(*columns, strict=True):
            found.quantities[f"predictive p-value, {name}"] = probability(p, error)
        of_all = result.adjusted.min().item()
        found.quantities["predictive p-value of all, two-sided"] = probability(of_all)
        found.verdicts["predictive checks"] = _predictive_verdict(result)
        found.details["predictive checks"] = {
            name: {"data": data, "replicated_mean": mean, "replicated_sd": sd, "z": _finite(z)}
            for name, data, mean, sd, z in zip(
                result.names,
                result.observed.tolist(),
                result.replicated.mean(0).tolist(),
                result.replicated.std(0).tolist(),
                result.z.tolist(),
                strict=True,
            )
        }


def _predictive_verdict(result: evaluation.PredictiveChecks) -> str:
    number, replicates = len(result.names), len(result.replicated)
    unlike = [
        f"{name} ({_distance(z)})"
        for name, z, p in zip(
            result.names, result.z.tolist(), result.adjusted.tolist(), strict=True
        )
        if p <= LEVEL
    ]
    if not unlike:
        return f"the data are like {replicates} replicated data sets in all {number} statistics"
    return (
        f"the data are unlike {replicates} replicated data sets in {len(unlike)} of {number} "
        f"statistics: {', '.join(unlike)}"
    )


def _distance(z: float) -> str:
    """Return a distance from replicated data in words."""
    side = "above" if z > 0 else "below"
    if not math.isfinite(z):
        return f"{side} replicated data, which are all alike"
    return f"{abs(z):.1f} standard deviations {side}"


def disentanglement(found: EvaluatedPair, options: Options) -> None:
    """Add scores of how far each dimension of a latent stands for one known factor."""
    factors, sites = found.inputs.data.factors, found.latents.sites
    for site in sites:
        of = f", {site}" if len(sites) > 1 else ""
        with found.attempt(f"disentanglement{of}", ValueError):
            scores = found.inputs.evaluate(
                evaluation.disentanglement,
                factors=factors,
                site=site,
                seed=options.seed,
                progress=options.progress,
            )
            found.disentanglement[site] = scores
            found.quantities |= {f"{k}{of}": q for k, q in _score_quantities(scores).items()}
            found.verdicts[f"disentanglement{of}"] = _own_dimensions(scores)
            found.details[f"disentanglement{of}"] = {
                "factors": list(scores.factors),
                "entropy": _numbers(scores.entropy),
                "information": [_numbers(row) for row in scores.information],
                "shuffled_information": [_numbers(row) for row in scores.shuffled_information],
            }
            by_chance = (scores.shuffled_information / scores.entropy).max().item()
            if by_chance > BY_CHANCE:
                found.warnings.append(
                    f"On factors that are shuffled among the data, single dimensions{of} seem to "
                    f"have information of up to {100 * by_chance:.0f} % of the entropy: there are "
                    f"too few data, {len(found.inputs.x)}, for the mutual information gap and "
                    f"modularity."
                )


def _score_quantities(scores: evaluation.Disentanglement) -> dict[str, Quantity]:
    def score(name: str) -> Quantity:
        if name in scores.undefined:
            return absent(scores.undefined[name], "score")
        return measured(getattr(scores, name), "score")

    informative = scores.informativeness
    return {
        "mutual information gap": score("mig"),
        "modularity": score("modularity"),
        "SAP": score("sap"),
        "DCI disentanglement": score("disentanglement"),
        "DCI completeness": score("completeness"),
        "DCI informativeness": measured(informative, "share"),
        "DCI informativeness by chance": plain(scores.chance, 3, "share"),
        "information on shuffled factors, largest": plain(
            scores.shuffled_information.max().item(), 3, "nats"
        ),
    }


def _own_dimensions(scores: evaluation.Disentanglement) -> str:
    """Say which factors have a dimension of their own."""
    if len(scores.information) == 1:
        return "the code has one dimension, which all factors share"
    ordered = (scores.information / scores.entropy).sort(0, descending=True)
    gaps = ordered.values[0] - ordered.values[1]
    own = [
        f"{name} (z_{dimension + 1}, {gap:.2f})"
        for name, dimension, gap in zip(
            scores.factors, ordered.indices[0].tolist(), gaps.tolist(), strict=True
        )
        if gap >= OWN
    ]
    named = f": {', '.join(own)}" if own else ""
    return (
        f"{len(own)} of {len(scores.factors)} factors have a dimension of their own, which is "
        f"ahead of all others by at least {100 * OWN:g} % of the factor's entropy{named}"
    )


def _numbers(values: Tensor) -> list[float | None]:
    return [_finite(value) for value in values.tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


SECTION_METRICS: dict[str, Callable[[EvaluatedPair, Options], None]] = {
    "calibration": calibration,
    "predictive checks": predictive_checks,
    "disentanglement": disentanglement,
}
"""Section -> the function that adds its numbers."""
