"""What labels say of a pair that was not given them."""

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
from ppl_vae.evaluation.seeding import seeded
from ppl_vae.models import SemiSupervisedVAE
from ppl_vae.report.evaluated_pair import Subject
from ppl_vae.report.measurements import Measured
from ppl_vae.report.program_runs import Runs
from ppl_vae.report.quantities import count, plain, share

NEIGHBOURS = 10


def agreement(found: Measured, runs: Runs, train: Subject | None, seed: int) -> None:
    """Compare latents, classes and clusters with the labels, and write down how they agree.

    Args:
        found: where to.
        runs: of the pair on its data.
        train: the pair and training data, for what is fitted; half of the data if not given.
        seed: of all draws.
    """
    labels = runs.subject.labels
    if labels is None:
        found.missing["labels"] = "no labels were given"
        return
    known = (labels >= 0).nonzero().squeeze(-1)
    if len(known) == 0:
        found.missing["labels"] = "none of these data has one"
        return
    if len(known) < len(labels):
        found.quantities["data with a label"] = count(len(known), len(labels))
    _probes(found, runs, known, train, seed)
    if isinstance(runs.subject.pair, SemiSupervisedVAE):
        _classes(found, runs, known, labels[known])
    if runs.mixture is None:
        found.missing["clustering"] = "the prior is no mixture, or is another for each label"
    else:
        _clusters(found, runs, runs.mixture, known, labels[known], seed)


def _probes(found: Measured, runs: Runs, known: Tensor, train: Subject | None, seed: int) -> None:
    """Fit classifiers of the latents, and test them on others."""
    if train is None:
        generator = torch.Generator().manual_seed(seed)
        fit, test = known[torch.randperm(len(known), generator=generator)].tensor_split(2)
        fitted = runs
    else:
        with torch.no_grad(), seeded("report", seed):
            fitted = Runs(train)
        fit, test = (_labels(fitted) >= 0).nonzero().squeeze(-1), known
    y, y_test = _labels(fitted)[fit], _labels(runs)[test]
    if len(y.unique()) < 2:
        found.missing["linear probe and k-NN"] = "they need two different labels or more"
        return
    for site in runs.sites:
        z, z_test = fitted.means[site].cpu()[fit], runs.means[site].cpu()[test]
        of = f", {site}" if len(runs.sites) > 1 else ""
        probe = linear_probe(z, y, z_test, y_test)
        found.quantities[f"linear probe{of}"] = share(probe, accuracy_interval(probe, len(test)))
        if len(fit) < NEIGHBOURS:
            found.missing[f"k-NN{of}"] = (
                f"{NEIGHBOURS} neighbours need {NEIGHBOURS} data, there are {len(fit)}"
            )
            continue
        vote = nearest_neighbours(z, y, z_test, y_test, neighbours=NEIGHBOURS)
        found.quantities[f"k-NN ({NEIGHBOURS}){of}"] = share(
            vote, accuracy_interval(vote, len(test))
        )


def _classes(found: Measured, runs: Runs, known: Tensor, y: Tensor) -> None:
    """Say how often q(y | x) is right, and whether it knows."""
    subject = runs.subject
    pair: Any = subject.pair
    if int(y.max()) >= pair.num_classes:
        found.missing["accuracy of q(y|x)"] = "the labels are not those of the pair"
        return
    at = known.to(subject.grey.device)
    seen = None if subject.mask is None else subject.mask[at]
    right = accuracy(pair, subject.grey[at], y, mask=seen)
    found.quantities["accuracy of q(y|x)"] = share(right, accuracy_interval(right, len(y)))
    found.calibration = expected_calibration_error(runs.classified()[known], y)
    found.quantities["expected calibration error"] = plain(found.calibration.error, 4, "share")


def _clusters(
    found: Measured, runs: Runs, mixture: str, known: Tensor, y: Tensor, seed: int
) -> None:
    """Say how the components of a mixture prior agree with the labels."""
    subject = runs.subject
    found.shares = responsibilities(
        subject.pair,
        subject.x,
        *subject.context,
        mask=subject.mask,
        site=mixture,
        seed=seed,
    ).cpu()
    result = clustering(found.shares[known], y)
    interval = accuracy_interval(result.accuracy, len(y))
    found.quantities["clusters that hold labelled data"] = count(
        result.clusters, found.shares.shape[-1]
    )
    found.quantities["clustering accuracy"] = share(result.accuracy, interval)
    found.quantities["clustering NMI"] = plain(result.nmi, 3)
    found.quantities["clustering AMI"] = plain(result.ami, 3)
    found.quantities["clustering ARI"] = plain(result.ari, 3)
    if result.clusters > result.classes:
        found.warnings.append(
            f"Clustering accuracy matches each of {result.classes} classes with one of "
            f"{result.clusters} clusters, and data of the others count as wrong: it could not "
            f"exceed {100 * result.greatest_accuracy:.1f} % here. NMI rises by itself with the "
            f"number of clusters; AMI and ARI are corrected for chance."
        )


def _labels(runs: Runs) -> Tensor:
    assert runs.subject.labels is not None
    return runs.subject.labels
