"""All numbers of one pair."""

from __future__ import annotations

import math
from functools import partial

from ppl_vae.evaluation.annealing import annealed_importance_sampling
from ppl_vae.evaluation.bounds import elbo_terms, importance_bounds
from ppl_vae.evaluation.decomposition import kl_decomposition
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.gaps import inference_gap
from ppl_vae.evaluation.latent_dimensions import latent_units
from ppl_vae.evaluation.likelihood import log_likelihood
from ppl_vae.evaluation.pareto import NOT_COMPUTED
from ppl_vae.evaluation.seeding import seeded
from ppl_vae.report.evaluated_pair import Subject
from ppl_vae.report.label_agreement import agreement
from ppl_vae.report.measurements import Measured
from ppl_vae.report.options import Options
from ppl_vae.report.program_runs import Runs
from ppl_vae.report.quantities import absent, bits, count, nats, plain
from ppl_vae.report.target import Target

ELBO_DRAWS = 10


def measure(subject: Subject, runs: Runs, train: Subject | None, options: Options) -> Measured:
    """Compute all numbers of one pair.

    Args:
        subject: the pair and its data.
        runs: of its programs.
        train: the pair and its training data, if there are any.
        options: what was asked for.

    Raises:
        ValueError: if the data do not suit the pair or a weight is not finite, as the functions of
            :mod:`ppl_vae.evaluation` do; a table without them would mislead.
    """
    found = Measured()
    _bounds(found, subject, options)
    _latents(found, subject, runs, options)
    agreement(found, runs, train, options.seed)
    return found


def _bounds(found: Measured, subject: Subject, options: Options) -> None:
    pair, args, mask = subject.pair, (subject.x, *subject.context), subject.mask
    table, seed, progress = found.quantities, options.seed, options.progress
    with seeded("report", seed):
        found.terms = found.attempt(
            "KL and reconstruction",
            lambda: elbo_terms(pair, *args, mask=mask, num_samples=ELBO_DRAWS, progress=progress),
        )
        # The bound of one draw is the ELBO: one quantity is estimated once.
        known = {} if found.terms is None else {1: found.terms.nelbo}
        others = [k for k in options.num_particles if k not in known]
        bounds = known | importance_bounds(
            pair, *args, mask=mask, num_particles=others, progress=progress
        )
    if found.terms is not None:
        table["NELBO"] = nats(found.terms.nelbo)
        table["KL"] = nats(found.terms.kl)
        table["Reconstruction"] = nats(found.terms.reconstruction)
    table.update({f"IWAE-{k}": nats(bounds[k]) for k in options.num_particles})
    result = found.listen(
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
    name, size = f"IS-{options.num_samples}", len(subject.x)
    table[name] = nats(result.nll)
    found.target = Target.of(subject, result.kind)
    if found.target.no_bits is None:
        table[f"{name}, bits per dimension"] = bits(found.target.bits(result.nll))
    else:
        found.missing["bits per dimension"] = found.target.no_bits
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
    if options.annealed_data:
        some = tuple(t[: options.annealed_data] for t in args)
        annealed = found.attempt(
            "annealed importance sampling",
            lambda: annealed_importance_sampling(
                pair,
                *some,
                mask=None if mask is None else mask[: options.annealed_data],
                num_chains=options.annealed_chains,
                num_temperatures=options.annealed_temperatures,
                seed=seed,
                progress=progress,
            ),
        )
        if annealed is not None:
            first = len(some[0])
            table[f"AIS on the first {first} data"] = nats(annealed.nll)
            same = Estimate.of(-result.log_px[:first])
            table[f"{name} on the same {first} data"] = nats(same)
    if options.gap_data:
        first = min(options.gap_data, size)
        gap = found.attempt(
            "inference gap",
            lambda: found.listen(
                lambda: inference_gap(
                    pair,
                    *(t[:first] for t in args),
                    mask=None if mask is None else mask[:first],
                    steps=options.gap_steps,
                    seed=seed,
                    progress=progress,
                )
            ),
            TypeError,
        )
        if gap is not None:
            table[f"approximation gap on the first {first} data"] = nats(gap.approximation)
            table[f"amortisation gap on the first {first} data"] = nats(gap.amortisation)


def _latents(found: Measured, subject: Subject, runs: Runs, options: Options) -> None:
    pair, args, mask = subject.pair, (subject.x, *subject.context), subject.mask
    several = len(runs.sites) > 1
    for site in runs.sites:
        of = f", {site}" if several else ""
        units = found.listen(
            partial(latent_units, pair, *args, mask=mask, site=site, seed=options.seed)
        )
        found.units[site] = units
        found.quantities[f"active units{of}"] = count(units.num_active, len(units.activity))
        split = found.attempt(
            f"split of the KL{of}",
            partial(kl_decomposition, pair, *args, mask=mask, site=site, seed=options.seed),
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
                f"The mutual information{of} is near log N = {split.max_mutual_information:.2f} "
                f"nats, its greatest possible value for {len(subject.x)} data: the posteriors "
                f"hardly overlap, and the true value may be larger. The marginal KL may be smaller."
            )
