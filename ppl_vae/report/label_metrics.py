"""How latents, predicted classes and clusters of a pair agree with labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_vae.evaluation.classification import (
    accuracy,
    accuracy_interval,
    expected_calibration_error,
)
from ppl_vae.evaluation.representation import (
    clustering,
    linear_probe,
    nearest_neighbours,
    responsibilities,
)
from ppl_vae.models import SemiSupervisedVAE
from ppl_vae.process_state import seeded
from ppl_vae.report.latents import Latents
from ppl_vae.report.measurements import Measurements, count, plain, share
from ppl_vae.report.pair_data import PairData

NEIGHBOURS = 10


def label_metrics(found: Measurements, latents: Latents, train: PairData | None, seed: int) -> None:
    """Add the metrics that need labels.

    Args:
        found: the measurements to add to.
        latents: of the pair on its data.
        train: the pair with training data to fit probes on; one half of the data if not given.
        seed: of all draws.
    """
    labels = latents.inputs.labels
    if labels is None:
        found.missing["labels"] = "no labels were given"
        return
    known = (labels >= 0).nonzero().squeeze(-1)
    if len(known) == 0:
        found.missing["labels"] = "none of these data has one"
        return
    if len(known) < len(labels):
        found.quantities["data with a label"] = count(len(known), len(labels))
    _probes(found, latents, known, train, seed)
    if isinstance(latents.inputs.pair, SemiSupervisedVAE):
        _classification(found, latents, known, labels[known])
    if latents.mixture is None:
        found.missing["clustering"] = "the prior is not a mixture, or varies with the label"
    else:
        _clustering(found, latents, latents.mixture, known, labels[known], seed)


def _probes(
    found: Measurements, latents: Latents, known: Tensor, train: PairData | None, seed: int
) -> None:
    """Fit classifiers of the latents, and test them on others."""
    if train is None:
        generator = torch.Generator().manual_seed(seed)
        fit, test = known[torch.randperm(len(known), generator=generator)].tensor_split(2)
        fitted = latents
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
        probes = {f"linear probe{of}": linear_probe(z, y, z_test, y_test)}
        if len(fit) < NEIGHBOURS:
            found.missing[f"k-NN{of}"] = f"it needs {NEIGHBOURS} data to fit, got {len(fit)}"
        else:
            vote = nearest_neighbours(z, y, z_test, y_test, neighbours=NEIGHBOURS)
            probes[f"k-NN ({NEIGHBOURS}){of}"] = vote
        for name, correct in probes.items():
            found.quantities[name] = share(correct, accuracy_interval(correct, len(test)))


def _classification(found: Measurements, latents: Latents, known: Tensor, y: Tensor) -> None:
    """Add accuracy and calibration of q(y | x)."""
    inputs = latents.inputs
    pair: Any = inputs.pair
    if int(y.max()) >= pair.num_classes:
        found.missing["accuracy of q(y|x)"] = "the labels are not those of the pair"
        return
    at = known.to(inputs.grey.device)
    mask = None if inputs.mask is None else inputs.mask[at]
    correct = accuracy(pair, inputs.grey[at], y, mask=mask)
    found.quantities["accuracy of q(y|x)"] = share(correct, accuracy_interval(correct, len(y)))
    found.calibration = expected_calibration_error(latents.class_probabilities()[known], y)
    found.quantities["expected calibration error"] = plain(found.calibration.error, 4, "share")


def _clustering(
    found: Measurements, latents: Latents, mixture: str, known: Tensor, y: Tensor, seed: int
) -> None:
    """Add the agreement of the components of a mixture prior with the labels."""
    inputs = latents.inputs
    found.responsibilities = responsibilities(
        inputs.pair, *inputs.args, mask=inputs.mask, site=mixture, seed=seed
    ).cpu()
    result = clustering(found.responsibilities[known], y)
    interval = accuracy_interval(result.accuracy, len(y))
    found.quantities["clusters with labelled data"] = count(
        result.clusters, found.responsibilities.shape[-1]
    )
    found.quantities["clustering accuracy"] = share(result.accuracy, interval)
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


def _labels(latents: Latents) -> Tensor:
    assert latents.inputs.labels is not None
    return latents.inputs.labels
