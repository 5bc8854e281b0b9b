"""All numbers of one pair."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ppl_vae.evaluation.annealing import annealed_importance_sampling
from ppl_vae.evaluation.bounds import ELBOTerms, elbo_terms, importance_bounds
from ppl_vae.evaluation.calibration import Calibration, expected_calibration_error
from ppl_vae.evaluation.classification import accuracy
from ppl_vae.evaluation.decomposition import KLDecomposition, kl_decomposition
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.gaps import inference_gap
from ppl_vae.evaluation.likelihood import log_likelihood
from ppl_vae.evaluation.reporting.quantities import Quantity, bits, count, nats, plain, share
from ppl_vae.evaluation.reporting.runs import Runs
from ppl_vae.evaluation.reporting.subject import Subject
from ppl_vae.evaluation.representation import (
    accuracy_interval,
    clustering,
    linear_probe,
    nearest_neighbours,
    responsibilities,
)
from ppl_vae.evaluation.seeding import seeded
from ppl_vae.evaluation.units import LatentUnits, latent_units
from ppl_vae.models import SemiSupervisedVAE

T = TypeVar("T")
ELBO_DRAWS = 10


@dataclass(frozen=True)
class Options:
    """What :func:`ppl_vae.evaluation.report` was asked for."""

    num_samples: int
    num_particles: tuple[int, ...]
    num_data: int | None
    annealed_data: int
    annealed_chains: int
    annealed_temperatures: int
    gap_data: int
    gap_steps: int
    seed: int
    progress: bool


@dataclass(eq=False)
class Measured:
    """The numbers of one pair, and what the pictures need of them.

    Args:
        quantities: by the label that the table gives them.
        missing: what could not be had, and why.
        warnings: in words.
        units: by latent site.
        terms: of the ELBO.
        decomposition: of the KL, where there is one latent.
        calibration: of a classifier.
        shares: of a mixture's components in each datum.
    """

    quantities: dict[str, Quantity] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    units: dict[str, LatentUnits] = field(default_factory=dict)
    terms: ELBOTerms | None = None
    decomposition: KLDecomposition | None = None
    calibration: Calibration | None = None
    shares: Tensor | None = None

    def attempt(self, what: str, fn: Callable[[], T], *reasons: type[Exception]) -> T | None:
        """Return what ``fn`` returns, or write down why it does not apply.

        Args:
            what: for the page.
            fn: to be called.
            reasons: exceptions that its documentation has for what does not apply, besides
                NotImplementedError; any other is an error of the data or of the code.
        """
        try:
            return fn()
        except Exception as error:
            if not isinstance(error, (NotImplementedError, *reasons)):
                raise
            self.missing[what] = str(error)
            return None

    def listen(self, fn: Callable[[], T]) -> T:
        """Return what ``fn`` returns, and keep its warnings for the page."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            result = fn()
        for warning in caught:
            if issubclass(warning.category, UserWarning):
                self.warnings.append(str(warning.message))
            else:
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )
        return result


def measure(subject: Subject, runs: Runs, options: Options) -> Measured:
    """Compute all numbers of one pair.

    Raises:
        ValueError: if the data do not suit the pair or a weight is not finite, as the functions of
            :mod:`ppl_vae.evaluation` do; a table without them would mislead.
    """
    found = Measured()
    _bounds(found, subject, options)
    _latents(found, subject, runs, options)
    if subject.labels is None:
        found.missing["labels"] = "no labels were given"
    else:
        _labels(found, subject, runs, options)
    return found


def _bounds(found: Measured, subject: Subject, options: Options) -> None:
    pair, args = subject.pair, (subject.x, *subject.context)
    table, seed, progress = found.quantities, options.seed, options.progress
    with seeded("report", seed):
        found.terms = found.attempt(
            "KL and reconstruction",
            lambda: elbo_terms(pair, *args, num_samples=ELBO_DRAWS, progress=progress),
        )
        bounds = importance_bounds(
            pair, *args, num_particles=options.num_particles, progress=progress
        )
    if found.terms is not None:
        table["NELBO"] = nats(found.terms.nelbo)
        table["KL"] = nats(found.terms.kl)
        table["Reconstruction"] = nats(found.terms.reconstruction)
    table.update({f"IWAE-{k}": nats(bound) for k, bound in bounds.items()})
    result = found.listen(
        lambda: log_likelihood(
            pair, *args, num_samples=options.num_samples, seed=seed, progress=progress
        )
    )
    name, size = f"IS-{options.num_samples}", len(subject.x)
    table[name] = nats(result.nll)
    table[f"{name}, bits per dimension"] = bits(result.bits_per_dim(subject.x.shape[1:]))
    error = result.standard_error.double().square().sum().sqrt().item() / size
    table[f"{name}, Monte Carlo error of the mean"] = plain(error, 4, "nats")
    table[f"{name}, median effective sample size"] = plain(result.ess.median().item(), 0)
    table["data with k̂ > 0.7"] = count(result.unreliable, size)
    if options.annealed_data:
        some = tuple(t[: options.annealed_data] for t in args)
        annealed = found.attempt(
            "annealed importance sampling",
            lambda: annealed_importance_sampling(
                pair,
                *some,
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
    pair, args = subject.pair, (subject.x, *subject.context)
    several = len(runs.sites) > 1
    for site in runs.sites:
        of = f", {site}" if several else ""
        units = found.listen(partial(latent_units, pair, *args, site=site, seed=options.seed))
        found.units[site] = units
        found.quantities[f"active units{of}"] = count(units.num_active, len(units.activity))
        split = found.attempt(
            f"split of the KL{of}",
            partial(kl_decomposition, pair, *args, site=site, seed=options.seed),
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


def _labels(found: Measured, subject: Subject, runs: Runs, options: Options) -> None:
    labels, table = subject.labels, found.quantities
    assert labels is not None
    known = (labels >= 0).nonzero().squeeze(-1)
    y = labels[known]
    generator = torch.Generator().manual_seed(options.seed)
    fit, test = torch.randperm(len(known), generator=generator).tensor_split(2)
    if len(y[fit].unique()) < 2:
        found.missing["linear probe and k-NN"] = "they need two different labels or more"
    else:
        for site in runs.sites:
            z = runs.means[site][known].cpu()
            of = f", {site}" if len(runs.sites) > 1 else ""
            probe = linear_probe(z[fit], y[fit], z[test], y[test])
            table[f"linear probe{of}"] = share(probe, accuracy_interval(probe, len(test)))
            if len(fit) < 10:
                found.missing[f"k-NN{of}"] = f"10 neighbours need 10 data, there are {len(fit)}"
                continue
            vote = nearest_neighbours(z[fit], y[fit], z[test], y[test])
            table[f"k-NN (10){of}"] = share(vote, accuracy_interval(vote, len(test)))
    pair: Any = subject.pair
    if isinstance(pair, SemiSupervisedVAE):
        at = known.to(subject.grey.device)
        if int(y.max()) >= pair.num_classes:
            found.missing["accuracy of q(y|x)"] = "the labels are not those of the pair"
        else:
            right = accuracy(pair, subject.grey[at], y)
            table["accuracy of q(y|x)"] = share(right, accuracy_interval(right, len(y)))
            probabilities = runs.classified()[known]
            found.calibration = expected_calibration_error(probabilities, y)
            table["expected calibration error"] = plain(found.calibration.error, 4, "share")
    if runs.mixture is None:
        found.missing["clustering"] = "the prior is no mixture, or is another for each label"
    else:
        shares = responsibilities(
            pair, subject.x, *subject.context, site=runs.mixture, seed=options.seed
        )
        found.shares = shares.cpu()
        result = clustering(found.shares[known], y)
        table["clustering accuracy"] = share(
            result.accuracy, accuracy_interval(result.accuracy, len(y))
        )
        table["clustering NMI"] = plain(result.nmi, 3)
        table["clustering ARI"] = plain(result.ari, 3)
