"""How latents, predicted classes and clusters of a pair agree with labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_vae import evaluation
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.seeding import seeded
from ppl_vae.models import SemiSupervisedVAE
from ppl_vae.report.evaluated_pair import EvaluatedPair
from ppl_vae.report.latents import Latents
from ppl_vae.report.pair_data import PairData
from ppl_vae.report.quantities import count, plain, share

NEIGHBOURS = 10


def label_metrics(found: EvaluatedPair, train: PairData | None, seed: int) -> None:
    """Add the metrics that need labels.

    Args:
        found: the pair with the metrics so far.
        train: the pair with training data to fit probes on; one half of the data if not given.
        seed: of all draws.
    """
    labels = found.inputs.labels
    if labels is None:
        found.missing["labels"] = "no labels were given"
        return
    known = (labels >= 0).nonzero().squeeze(-1)
    if len(known) == 0:
        found.missing["labels"] = "none of these data has one"
        return
    if len(known) < len(labels):
        found.quantities["data with a label"] = count(len(known), len(labels))
    _probes(found, known, train, seed)
    if isinstance(found.inputs.pair, SemiSupervisedVAE):
        _classification(found, known, labels[known])
    if found.latents.mixture is None:
        found.missing["clustering"] = "the prior is not a mixture, or varies with the label"
    else:
        _clustering(found, found.latents.mixture, known, labels[known], seed)


def _probes(found: EvaluatedPair, known: Tensor, train: PairData | None, seed: int) -> None:
    """Fit classifiers of the latents, and test them on others."""
    fitted = latents = found.latents
    if train is None:
        generator = torch.Generator().manual_seed(seed)
        fit, test = known[torch.randperm(len(known), generator=generator)].tensor_split(2)
    else:
        with torch.no_grad(), seeded("report", seed):
            fitted = Latents(train)
        fit, test = (_labels(fitted) >= 0).nonzero().squeeze(-1), known
    y, y_test = _labels(fitted)[fit], _labels(latents)[test]
    if len(y.unique()) < 2:
        found.missing["linear probe and k-NN"] = "they need two different labels or more"
        return
    for site in latents.sites:
        z, z_test = fitted.means[site].cpu()[fit], latents.means[site].cpu()[test]
        of = f", {site}" if len(latents.sites) > 1 else ""
        probes = {f"linear probe{of}": evaluation.linear_probe(z, y, z_test, y_test)}
        if len(fit) < NEIGHBOURS:
            found.missing[f"k-NN{of}"] = f"it needs {NEIGHBOURS} data to fit, got {len(fit)}"
        else:
            probes[f"k-NN ({NEIGHBOURS}){of}"] = evaluation.nearest_neighbours(
                z, y, z_test, y_test, neighbours=NEIGHBOURS
            )
        for name, correct in probes.items():
            _add_share(found, name, correct, len(test))


def _classification(found: EvaluatedPair, known: Tensor, y: Tensor) -> None:
    """Add accuracy and calibration of q(y | x)."""
    inputs = found.inputs
    pair: Any = inputs.pair
    if int(y.max()) >= pair.num_classes:
        found.missing["accuracy of q(y|x)"] = "the labels are not those of the pair"
        return
    at = known.to(inputs.grey.device)
    mask = None if inputs.mask is None else inputs.mask[at]
    correct = evaluation.accuracy(pair, inputs.grey[at], y, mask=mask)
    _add_share(found, "accuracy of q(y|x)", correct, len(y))
    probabilities = found.latents.class_probabilities()[known]
    found.calibration = evaluation.expected_calibration_error(probabilities, y)
    found.quantities["expected calibration error"] = plain(found.calibration.error, 4, "share")


def _clustering(found: EvaluatedPair, mixture: str, known: Tensor, y: Tensor, seed: int) -> None:
    """Add the agreement of the components of a mixture prior with the labels."""
    p = found.inputs.evaluate(evaluation.responsibilities, site=mixture, seed=seed).cpu()
    found.responsibilities = p
    result = evaluation.clustering(p[known], y)
    found.quantities["clusters with labelled data"] = count(result.clusters, p.shape[-1])
    _add_share(found, "clustering accuracy", result.accuracy, len(y))
    found.quantities["clustering NMI"] = plain(result.nmi, 3)
    found.quantities["clustering AMI"] = plain(result.ami, 3)
    found.quantities["clustering ARI"] = plain(result.ari, 3)
    if result.clusters > result.classes:
        found.warnings.append(
            f"Clustering accuracy matches each of {result.classes} classes with one of "
            f"{result.clusters} clusters and counts data of the others as wrong, so that it is at "
            f"most {100 * result.greatest_accuracy:.1f} % here. NMI rises with the number of "
            f"clusters; AMI and ARI are corrected for chance."
        )


def _add_share(found: EvaluatedPair, name: str, correct: Estimate, n: int) -> None:
    found.quantities[name] = share(correct, evaluation.accuracy_interval(correct, n))


def _labels(latents: Latents) -> Tensor:
    assert latents.inputs.labels is not None
    return latents.inputs.labels
