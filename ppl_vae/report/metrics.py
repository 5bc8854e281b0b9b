"""All metrics of one pair."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from ppl_vae.evaluation.annealing import annealed_importance_sampling
from ppl_vae.evaluation.bounds import elbo_terms, importance_bounds
from ppl_vae.evaluation.decomposition import kl_decomposition
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.gaps import inference_gap
from ppl_vae.evaluation.latent_dimensions import latent_units
from ppl_vae.evaluation.likelihood import log_likelihood
from ppl_vae.evaluation.pareto import NOT_COMPUTED
from ppl_vae.process_state import seeded
from ppl_vae.report.comparability import DataSpace
from ppl_vae.report.label_metrics import label_metrics
from ppl_vae.report.latents import Latents
from ppl_vae.report.measurements import Measurements, absent, bits, count, nats, plain
from ppl_vae.report.options import Options
from ppl_vae.report.pair_data import PairData

ELBO_DRAWS = 10


def measure(latents: Latents, train: PairData | None, options: Options) -> Measurements:
    """Compute all metrics of one pair.

    Args:
        latents: of the pair on its data.
        train: the pair with its training data, if there are any.
        options: of the report.

    Raises:
        ValueError: if the data are incompatible with the pair or a weight is not finite, as raised
            by :mod:`ppl_vae.evaluation`; a table without these numbers would mislead.
    """
    found = Measurements()
    log_px = _bounds(found, latents.inputs, options)
    _annealing(found, latents.inputs, options, log_px)
    _gap(found, latents.inputs, options)
    _latents(found, latents, options)
    label_metrics(found, latents, train, options.seed)
    return found


def _bounds(found: Measurements, inputs: PairData, options: Options) -> Tensor:
    pair, args, mask = inputs.pair, inputs.args, inputs.mask
    table, seed, progress = found.quantities, options.seed, options.progress
    with seeded("report", seed):
        found.terms = found.attempt(
            "KL and reconstruction",
            lambda: elbo_terms(pair, *args, mask=mask, num_samples=ELBO_DRAWS, progress=progress),
        )
        # The bound with one particle is the ELBO, which is estimated once.
        known = {} if found.terms is None else {1: found.terms.nelbo}
        others = [k for k in options.num_particles if k not in known]
        bounds = known | importance_bounds(
            pair, *args, mask=mask, num_particles=others, progress=progress
        )
    if found.terms is not None:
        table["NELBO"] = nats(found.terms.nelbo)
        table["KL"] = nats(found.terms.kl)
        table["Reconstruction"] = nats(found.terms.reconstruction)
        found.bounds["NELBO"] = found.terms.nelbo
    table.update({f"IWAE-{k}": nats(bounds[k]) for k in options.num_particles})
    found.bounds |= {f"IWAE-{k}": bounds[k] for k in others}
    result = found.record_warnings(
        lambda: log_likelihood(
            pair,
            *args,
            mask=mask,
            num_samples=options.num_samples,
            seed=seed,
            progress=progress,
            compile=options.compile,
        )
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


def _annealing(found: Measurements, inputs: PairData, options: Options, log_px: Tensor) -> None:
    """Estimate log p(x) of the first data by annealed importance sampling."""
    if not options.annealed_data:
        return
    args, mask = _first(inputs, options.annealed_data)
    result = found.attempt(
        "annealed importance sampling",
        lambda: annealed_importance_sampling(
            inputs.pair,
            *args,
            mask=mask,
            num_chains=options.annealed_chains,
            num_temperatures=options.annealed_temperatures,
            seed=options.seed,
            progress=options.progress,
        ),
    )
    if result is not None:
        size = len(args[0])
        found.quantities[f"AIS on the first {size} data"] = nats(result.nll)
        same = nats(Estimate.of(-log_px[:size]))
        found.quantities[f"IS-{options.num_samples} on the same {size} data"] = same


def _gap(found: Measurements, inputs: PairData, options: Options) -> None:
    """Split the inference gap of the first data."""
    if not options.gap_data:
        return
    args, mask = _first(inputs, options.gap_data)
    gap = found.attempt(
        "inference gap",
        lambda: found.record_warnings(
            lambda: inference_gap(
                inputs.pair,
                *args,
                mask=mask,
                steps=options.gap_steps,
                seed=options.seed,
                progress=options.progress,
            )
        ),
        TypeError,
    )
    if gap is not None:
        for name, value in (
            ("approximation", gap.approximation),
            ("amortisation", gap.amortisation),
        ):
            found.quantities[f"{name} gap on the first {len(args[0])} data"] = nats(value)


def _first(inputs: PairData, number: int) -> tuple[tuple[Tensor, ...], Tensor | None]:
    mask = None if inputs.mask is None else inputs.mask[:number]
    return tuple(t[:number] for t in inputs.args), mask


def _latents(found: Measurements, latents: Latents, options: Options) -> None:
    """Count active units and decompose the KL of each latent."""
    inputs, several = latents.inputs, len(latents.sites) > 1
    for site in latents.sites:
        of = f", {site}" if several else ""
        arguments = {"mask": inputs.mask, "site": site, "seed": options.seed}
        units = found.record_warnings(
            partial(latent_units, inputs.pair, *inputs.args, **arguments)  # type: ignore[arg-type]
        )
        found.units[site] = units
        found.quantities[f"active units{of}"] = count(units.num_active, len(units.activity))
        split = found.attempt(
            f"decomposition of the KL{of}",
            partial(kl_decomposition, inputs.pair, *inputs.args, **arguments),  # type: ignore[arg-type]
            ValueError,
        )
        if split is None:
            continue
        if not several:
            found.decomposition = split
        found.quantities[f"mutual information{of}"] = nats(split.mutual_information)
        found.quantities[f"marginal KL{of}"] = nats(split.marginal_kl)
        for label, value, key in (
            ("total correlation", split.total_correlation, "total_correlation"),
            ("dimension-wise KL", split.dimension_wise_kl, "dimension_wise_kl"),
        ):
            if value is None:
                found.missing[f"{label}{of}"] = split.missing[key]
            else:
                found.quantities[f"{label}{of}"] = nats(value)
        if split.mutual_information.mean > 0.9 * split.max_mutual_information:
            found.warnings.append(
                f"The mutual information{of} is near its maximum of log N = "
                f"{split.max_mutual_information:.2f} nats for N = {len(inputs.x)} data: the "
                f"posteriors hardly overlap. The true value may be larger, and the marginal KL "
                f"smaller."
            )
