"""All metrics of one pair."""

from __future__ import annotations

import math

from torch import Tensor

from ppl_vae import evaluation
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.pareto import NOT_COMPUTED
from ppl_vae.evaluation.seeding import seeded
from ppl_vae.report.comparability import DataSpace
from ppl_vae.report.evaluated_pair import EvaluatedPair
from ppl_vae.report.label_metrics import label_metrics
from ppl_vae.report.latents import Latents
from ppl_vae.report.options import Options
from ppl_vae.report.pair_data import PairData
from ppl_vae.report.quantities import absent, bits, count, nats, plain

ELBO_DRAWS = 10


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
    label_metrics(found, train, options.seed)
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
