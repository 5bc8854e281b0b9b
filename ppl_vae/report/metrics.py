"""All metrics of one pair."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ppl_vae import evaluation
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.pareto import NOT_COMPUTED
from ppl_vae.models import SemiSupervisedVAE
from ppl_vae.process_state import seeded
from ppl_vae.report.comparability import DataSpace
from ppl_vae.report.evaluated_pair import EvaluatedPair
from ppl_vae.report.latents import Latents
from ppl_vae.report.options import Options
from ppl_vae.report.pair_data import PairData
from ppl_vae.report.quantities import absent, bits, count, nats, plain, share
from ppl_vae.report.section_metrics import SECTION_METRICS

ELBO_DRAWS = 10
NEIGHBOURS = 10


def measure(latents: Latents, train: PairData | None, options: Options) -> EvaluatedPair:
    """Compute all metrics of one pair.

    Args:
        latents: of the pair on its data.
        train: the pair with its training data, if there are any.
        options: of the report.

    Raises:
        ValueError: if the data are incompatible with the pair or a weight is not finite, as raised
            by :mod:`ppl_vae.evaluation`; a table without these numbers would mislead.
    """
    found = EvaluatedPair(latents)
    log_px = _bounds(found, options)
    _annealing(found, options, log_px)
    _gap(found, options)
    _latents(found, options)
    _labels(found, train, options.seed)
    for name in options.sections:
        SECTION_METRICS[name](found, options)
    return found


def _bounds(found: EvaluatedPair, options: Options) -> Tensor:
    """Add the bounds on log p(x); return its estimate by importance sampling."""
    inputs, table, progress = found.inputs, found.quantities, options.progress
    with seeded("report", options.seed):
        with found.attempt("KL and reconstruction"):
            found.terms = inputs.evaluate(
                evaluation.elbo_terms, num_samples=ELBO_DRAWS, progress=progress
            )
        # The bound with one particle is the ELBO, which is estimated once.
        known = {} if found.terms is None else {1: found.terms.nelbo}
        others = [k for k in options.num_particles if k not in known]
        bounds = known | inputs.evaluate(
            evaluation.importance_bounds, num_particles=others, progress=progress
        )
    if found.terms is not None:
        table["NELBO"] = nats(found.terms.nelbo)
        table["KL"] = nats(found.terms.kl)
        table["Reconstruction"] = nats(found.terms.reconstruction)
        found.bounds["NELBO"] = found.terms.nelbo
    table.update({f"IWAE-{k}": nats(bounds[k]) for k in options.num_particles})
    found.bounds |= {f"IWAE-{k}": bounds[k] for k in others}
    with found.recorded_warnings():
        result = inputs.evaluate(
            evaluation.log_likelihood,
            num_samples=options.num_samples,
            seed=options.seed,
            progress=progress,
            compile=options.compile,
        )
    name, size = f"IS-{options.num_samples}", len(inputs.x)
    table[name] = nats(result.nll)
    found.bounds[name] = result.nll
    found.data_space = DataSpace.of(inputs, result.kind)
    if found.data_space.no_bits is None:
        table[f"{name}, bits per dimension"] = bits(found.data_space.bits(result.nll))
    else:
        found.missing["bits per dimension"] = found.data_space.no_bits
    error = result.monte_carlo_error
    table[f"{name}, Monte Carlo error of the mean"] = (
        absent("not computed: a single sample", "nats")
        if math.isnan(error)
        else plain(error, 4, "nats")
    )
    table[f"{name}, median effective sample size"] = plain(result.ess.median().item(), 0)
    table["data with k̂ > 0.7"] = (
        count(result.unreliable, size)
        if result.has_pareto_k
        else absent(NOT_COMPUTED, f"of {size}")
    )
    return result.log_px


def _annealing(found: EvaluatedPair, options: Options, log_px: Tensor) -> None:
    """Estimate log p(x) of the first data by annealed importance sampling."""
    if not options.annealed_data:
        return
    log_px = log_px[: options.annealed_data]
    with found.attempt("annealed importance sampling"):
        result = found.inputs.evaluate(
            evaluation.annealed_importance_sampling,
            options.annealed_data,
            num_chains=options.annealed_chains,
            num_temperatures=options.annealed_temperatures,
            seed=options.seed,
            progress=options.progress,
        )
        found.quantities[f"AIS on the first {len(log_px)} data"] = nats(result.nll)
        same = f"IS-{options.num_samples} on the same {len(log_px)} data"
        found.quantities[same] = nats(Estimate.of(-log_px))


def _gap(found: EvaluatedPair, options: Options) -> None:
    """Split the inference gap of the first data."""
    if not options.gap_data:
        return
    with found.attempt("inference gap", TypeError), found.recorded_warnings():
        gap = found.inputs.evaluate(
            evaluation.inference_gap,
            options.gap_data,
            steps=options.gap_steps,
            seed=options.seed,
            progress=options.progress,
        )
        first = f"gap on the first {len(gap.elbo)} data"
        found.quantities[f"approximation {first}"] = nats(gap.approximation)
        found.quantities[f"amortisation {first}"] = nats(gap.amortisation)


def _latents(found: EvaluatedPair, options: Options) -> None:
    """Count active units and decompose the KL of each latent."""
    inputs, sites = found.inputs, found.latents.sites
    for site in sites:
        of = f", {site}" if len(sites) > 1 else ""
        with found.recorded_warnings():
            units = inputs.evaluate(evaluation.latent_units, site=site, seed=options.seed)
        found.units[site] = units
        found.quantities[f"active units{of}"] = count(units.num_active, len(units.activity))
        with found.attempt(f"decomposition of the KL{of}", ValueError):
            split = inputs.evaluate(evaluation.kl_decomposition, site=site, seed=options.seed)
            _add_decomposition(found, split, of)
            if len(sites) == 1:
                found.decomposition = split


def _add_decomposition(found: EvaluatedPair, split: evaluation.KLDecomposition, of: str) -> None:
    found.quantities[f"mutual information{of}"] = nats(split.mutual_information)
    found.quantities[f"marginal KL{of}"] = nats(split.marginal_kl)
    names = {"total correlation": "total_correlation", "dimension-wise KL": "dimension_wise_kl"}
    for label, name in names.items():
        value = getattr(split, name)
        if value is None:
            found.missing[f"{label}{of}"] = split.missing[name]
        else:
            found.quantities[f"{label}{of}"] = nats(value)
    if split.mutual_information.mean > 0.9 * split.max_mutual_information:
        found.warnings.append(
            f"The mutual information{of} is near its maximum of log N = "
            f"{split.max_mutual_information:.2f} nats for N = {len(found.inputs.x)} data: the "
            f"posteriors hardly overlap. The true value may be larger, and the marginal KL "
            f"smaller."
        )


def _labels(found: EvaluatedPair, train: PairData | None, seed: int) -> None:
    """Add the metrics that need labels."""
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
        fit, test = (_labels_of(fitted) >= 0).nonzero().squeeze(-1), known
    y, y_test = _labels_of(fitted)[fit], _labels_of(latents)[test]
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
    found.reliability = evaluation.expected_calibration_error(probabilities, y)
    found.quantities["expected calibration error"] = plain(found.reliability.error, 4, "share")


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


def _labels_of(latents: Latents) -> Tensor:
    assert latents.inputs.labels is not None
    return latents.inputs.labels
