"""Log-densities of model and guide per particle and datum, enumerated sites kept apart."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from pyro.poutine import Trace
from torch import Tensor

from ppl_vae.estimators.batch_plate import BatchPlate, SubsampledInsideError
from ppl_vae.estimators.elimination import Factor, log_sum_out
from ppl_vae.estimators.power_means import negligible
from ppl_vae.estimators.traces import (
    is_enumerated,
    is_given_latent,
    log_density,
    sample_sites,
    total,
)

Terms = tuple[Tensor, Tensor | None]
"""The model's log-density, and that of what is observed given the latents."""


@dataclass(frozen=True)
class Enumeration:
    """Enumerated sites of the guide: an exact expectation over their values.

    Args:
        log_prob: unscaled and unmasked: the probabilities of the expectation.
        cost: scaled and masked: what enters the bound.
        dims: the enumeration dimensions; empty if nothing is enumerated.
    """

    log_prob: Tensor
    cost: Tensor
    dims: tuple[int, ...]

    @classmethod
    def of(cls, sites: list[dict], plate: BatchPlate, *, same_for_all: bool = False) -> Enumeration:
        """Return the enumeration of some sites; ``same_for_all`` if all particles agree."""
        if not sites:
            return _NOTHING
        dims = tuple(map(plate.enumeration_dim, sites))
        log_prob, cost = total(map(log_density, sites)), total(map(plate.log_prob, sites))
        cost, _ = torch.broadcast_tensors(cost, log_prob)
        if same_for_all:
            log_prob = log_prob.narrow(plate.particle_dim, 0, 1)
            cost = cost.narrow(plate.particle_dim, 0, 1)
        return cls(log_prob, cost, dims)

    def expectation(self, term: Tensor, *, entropy: bool = False) -> Tensor:
        """Return Σ_y q(y) term(y), or Σ_y q(y) [term(y) - log q(y)] with the entropy.

        Values with q(y) < ε² (:func:`ppl_vae.estimators.power_means.negligible`) add exactly 0.
        """
        if not self.dims:
            return term
        probability = self.log_prob.exp()
        counts = ~(probability < negligible(probability.dtype))  # NaN counts
        probability = torch.where(counts, probability, 0.0)
        if entropy:
            term = term - self.cost
        # Where q(y) is negligible the term may be infinite and still contributes nothing. Elsewhere
        # -∞ makes the sum -∞; it is kept out of the product, whose derivative would be NaN.
        impossible = counts & (term == -math.inf)
        term = torch.where(counts & ~impossible, term, 0.0)
        expected = (probability * term).sum(self.dims, keepdim=True)
        return expected.masked_fill(impossible.any(self.dims, keepdim=True), -math.inf)

    def fixed_expectation(self, term: Tensor) -> Tensor:
        """Return Σ_y q(y) term(y), differentiable in the term alone."""
        if not self.dims:
            return term
        fixed = Enumeration(self.log_prob.detach(), self.cost.detach(), self.dims)
        return fixed.expectation(term)

    def log_sum(self, log_w: Tensor) -> Tensor:
        """Return log Σ_y w(y), of a masked datum Σ_y q(y) w(y), where w is 1 for each y."""
        if not self.dims:
            return log_w
        log_prob, cost = torch.broadcast_tensors(self.log_prob, self.cost)
        masked = torch.where(log_prob == cost, 0.0, log_prob)
        return (log_w + masked).logsumexp(self.dims, keepdim=True)


_NOTHING = Enumeration(torch.zeros(()), torch.zeros(()), ())


def model_terms(
    trace: Trace, plate: BatchPlate, guide_names: Collection[str], skip: Collection[str] = ()
) -> Terms:
    """Return the model's log-density and that of its observed sites, without those in ``skip``."""
    factors: list[Factor] = []
    summed: list[dict] = []
    for site in sample_sites(trace):
        if site["name"] in skip:
            continue
        in_model_only = site["name"] not in guide_names and not site["is_observed"]
        if in_model_only and not is_enumerated(site):
            if site["mask"] is False:
                continue  # drawn from its prior
            raise ValueError(
                f"latent site {site['name']!r} is in the model but not in the guide; sample it in "
                f"the guide, or mark it infer={{'enumerate': 'parallel'}} in the model"
            )
        if in_model_only:
            summed.append(site)
            factors.append((site, _normalised_log_prob(site, plate)))
        elif site["mask"] is not False:
            factors.append((site, plate.weighted_log_prob(site)))
    if not summed:
        terms = [(site, plate.summed_inside(term, site)) for site, term in factors]
        observed = [t for site, t in terms if site["is_observed"] and not is_given_latent(site)]
        return total(term for _, term in terms), total(observed)
    if plate.subsampled:
        site_name, plate_name = plate.subsampled[0]
        raise SubsampledInsideError(
            f"site {site_name!r} is in the inner plate {plate_name!r}, which is subsampled, and a "
            f"site enumerated in the model alone is summed out over it, which is no bound on "
            f"log p(x); use the whole plate, enumerate in the guide, or, where all such sites are "
            f"inside it, one particle (the ELBO)"
        )
    return log_sum_out(factors, summed, plate), None


def guide_terms(
    trace: Trace, plate: BatchPlate, instead: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Enumeration, Enumeration]:
    """Return log q of the sampled sites, and the outer and inner enumerations.

    ``instead`` are terms that take the place of sites' log q.
    """
    terms: list[Tensor] = []
    instead = instead or {}
    outer: list[dict] = []
    inner: list[dict] = []
    sampled = False
    for site in sample_sites(trace):
        if is_enumerated(site):
            (inner if sampled else outer).append(site)
        else:
            sampled = True
            term = instead.get(site["name"])
            terms.append(plate.log_prob(site) if term is None else term)
    # Nothing is sampled before the outer ones, so all particles agree.
    return (
        total(terms),
        Enumeration.of(outer, plate, same_for_all=True),
        Enumeration.of(inner, plate),
    )


def sampled_sites(guide_trace: Trace) -> list[dict]:
    """Return the guide's sites that are sampled, not enumerated."""
    return [site for site in sample_sites(guide_trace) if not is_enumerated(site)]


def same_weight(one: dict, other: dict) -> bool:
    """Return whether two sites have the same scale and mask."""
    return _same(one["scale"], other["scale"]) and _same(one["mask"], other["mask"])


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or torch.equal(one, other)
    return one is other or (not isinstance(one, Tensor) and one == other)


def _normalised_log_prob(site: dict, plate: BatchPlate) -> Tensor:
    """Return the log-density of a site that is summed out, the plain prior where it is masked.

    With 0 there, each masked datum would add log |Y|.
    """
    log_prob = plate.weighted_log_prob({**site, "mask": None})
    if site["mask"] is None or site["mask"] is True:
        return log_prob
    if site["mask"] is False:
        return log_density(site)
    return torch.where(site["mask"], log_prob, log_density(site))
