"""Importance weights per datum and particle."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ppl_vae.estimators.datum import Datum
from ppl_vae.estimators.masks import is_masked
from ppl_vae.estimators.power_means import log_sum
from ppl_vae.estimators.rounding import negligible
from ppl_vae.estimators.traces import (
    Program,
    is_enumerated,
    is_given_latent,
    log_density,
    narrowed,
    sample_sites,
    subsamples,
    with_values,
)
from ppl_vae.process_state import exclusively
from ppl_vae.random_state import random_state, restored, set_random_state

Terms = tuple[Tensor, Tensor | None]
"""The model's log-densities, and those of what is observed given the latents."""


@dataclass(frozen=True)
class LogWeights:
    r"""log w = Σ_model log p - Σ_guide log q of each particle for each datum, and its parts.

    The batch plate's N/B is kept apart, in ``datum.scale``; every other scale (β), every mask and
    every inner plate is inside. Tensors broadcast to ``(*enumerated, particles, *plates)``, where
    the only plate of size above 1 is the batch.

    The guide's enumerated values are either *outer*, when they come before anything the guide
    samples (y in q(y|x) q(z|x,y)), or *inner*, when they come after (y in q(z|x) q(y|x,z)).

    Args:
        log_p: the model's sites; values enumerated only in the model are summed out.
        log_likelihood: the observed sites that are no given latents, such as a label y that would
            be enumerated; None where the model alone enumerates.
        log_q: the guide's sampled sites.
        outer: the guide's outer enumerated sites.
        inner: the guide's inner enumerated sites.
        datum: where the batch and the particles are.
        sampled: the guide's sampled sites themselves.
        paths: per reparameterised site the leaf that the densities saw and the value it was cut
            from, where the weights were asked for with ``leaves=True``.
    """

    log_p: Tensor
    log_likelihood: Tensor | None
    log_q: Tensor
    outer: Enumerated
    inner: Enumerated
    datum: Datum
    sampled: list[dict] = field(default_factory=list)
    paths: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def guide_weight(self) -> Tensor | float:
        """Return the weight t of log q in log w, from scales (without N/B) and masks.

        Raises:
            NotImplementedError: if the guide's sampled sites differ in it.
        """
        if not self.sampled:
            return 1.0
        for site in self.sampled:
            if is_masked(site["fn"]):
                raise NotImplementedError(
                    f"gradient='dreg' needs one mask for all dimensions of a site, but that of "
                    f"{site['name']!r} is within its events; use gradient='iwae'"
                )
        first, *others = self.sampled
        has_inner = any(frame.vectorized for frame in self.datum.inner_plates(first))
        inner = first if first["mask"] is not None and has_inner else None
        for site in filter(None, [inner, *(s for s in others if not same_weight(s, first))]):
            raise NotImplementedError(
                f"gradient='dreg' needs one scale and mask for all sampled sites of the guide, but "
                f"that of {site['name']!r} is its own; use gradient='iwae'"
            )
        scale = first["scale"] / self.datum.scale
        return scale if first["mask"] is None else first["mask"] * scale

    def check_inner(self) -> None:
        """Raise an error if a site is sampled after an inner enumerated one.

        Raises:
            NotImplementedError: since the guide's gradients do not come apart then.
        """
        for dim in self.inner.dims:
            if self.log_q.dim() >= -dim and self.log_q.shape[dim] > 1:
                raise NotImplementedError(
                    "the guide samples a site after an enumerated one that itself comes after a "
                    "sampled site; this goes with gradient='iwae' alone"
                )

    @property
    def log_w(self) -> Tensor:
        """log w, the expectation over inner enumerated values taken: ``(*outer, K, *plates)``."""
        return self.inner.expectation(self.log_p - self.log_q, entropy=True)

    def elbo(self) -> Tensor:
        """Return E_q [log w], the entropy of outer values included: the ELBO, ``(batch,)``."""
        log_w = self.log_w
        if log_w.shape[self.datum.particle_dim] > 1:
            log_w = log_w.mean(self.datum.particle_dim, keepdim=True)
        return self.datum.flat(self.outer.expectation(log_w, entropy=True))

    def check_whole_plates(self, num_particles: int) -> None:
        """Raise an error if a scale of a subsampled inner plate would be in an exponent.

        exp is convex: E exp(6/2 Σ over 2 of 6) is not exp(Σ over 6), but above it.

        Raises:
            NotImplementedError: naming the site and its plate.
        """
        for site, plate in self.datum.subsampled:
            raise NotImplementedError(
                f"site {site!r} is in the inner plate {plate!r}, which is subsampled: with "
                f"{num_particles} particles its scale is inside the exponent, and that is no bound "
                f"on log p(x); use the whole plate, or one particle (the ELBO)"
            )

    def check_reparameterised(self) -> None:
        """Raise an error if differentiating the weights would miss a term.

        Raises:
            NotImplementedError: naming the site that is neither reparameterised nor enumerated.
        """
        for site in self.sampled:
            if site["fn"].has_rsample:
                continue
            raise NotImplementedError(
                f"site {site['name']!r} of the guide, {type(site['fn']).__name__}, is neither "
                f"reparameterised nor enumerated, so the gradient would miss a term; mark it "
                f"infer={{'enumerate': 'parallel'}} if it is discrete, or use gradient='wake'"
            )

    def mean_over_particles(self, term: Tensor) -> Tensor:
        """Return E_q of a term of each particle, per datum, shape ``(batch,)``."""
        term = self.inner.expectation(term).mean(self.datum.particle_dim, keepdim=True)
        return self.datum.flat(self.outer.expectation(term))


@dataclass(frozen=True)
class Enumerated:
    """Enumerated values of the guide: an exact expectation over them.

    Args:
        log_prob: unscaled and unmasked: the probabilities of the expectation.
        cost: scaled and masked: what enters the bound.
        dims: the enumeration dimensions; none where nothing is enumerated.
    """

    log_prob: Tensor
    cost: Tensor
    dims: tuple[int, ...]

    def expectation(self, term: Tensor, *, entropy: bool = False) -> Tensor:
        """Return Σ_y q(y) term(y), or Σ_y q(y) [term(y) - log q(y)] with the entropy.

        Values with q(y) < ε² (:func:`ppl_vae.estimators.rounding.negligible`) add an exact zero.
        """
        if not self.dims:
            return term
        probability = self.log_prob.exp()
        counts = ~(probability < negligible(probability.dtype))  # NaN does
        probability = torch.where(counts, probability, 0.0)
        if entropy:
            term = term - self.cost
        # Where q(y) is 0, or as good as, the term may be infinite and still contributes nothing.
        # Elsewhere -∞ makes the sum -∞, and is kept from the derivative by q(y), which it is.
        impossible = counts & (term == -math.inf)
        term = torch.where(counts & ~impossible, term, 0.0)
        expected = (probability * term).sum(self.dims, keepdim=True)
        return expected.masked_fill(impossible.any(self.dims, keepdim=True), -math.inf)

    def fixed_expectation(self, term: Tensor) -> Tensor:
        """Return Σ_y q(y) term(y), whose gradient goes through the term alone."""
        fixed = Enumerated(self.log_prob.detach(), self.cost.detach(), self.dims)
        return fixed.expectation(term)


def log_weights(
    program: Program,
    *,
    num_particles: int,
    plate: str,
    chunk_size: int | None = None,
    leaves: bool = False,
) -> LogWeights:
    """Run a program and weigh its particles.

    Args:
        program: the model and guide with their arguments.
        num_particles: how many particles.
        plate: name of the batch plate.
        chunk_size: run the model on so many particles at a time, and again when differentiating:
            the model's memory is that of one chunk, the draws and all values are the same; what
            plates of the model are subsampled, all chunks share.
        leaves: cut the graph at each reparameterised value, see :attr:`LogWeights.paths`.

    Raises:
        ValueError: if a site lies outside the batch plate, or a latent is not in the guide.
        NotImplementedError: if a site is enumerated inside an inner plate.
    """
    guide_trace = program.run_guide(num_particles)
    paths: list[tuple[Tensor, Tensor]] = []
    if leaves:
        guide_trace, paths = _cut(program, guide_trace, num_particles)
    names = set(guide_trace.nodes)
    # A guide may have no sites, where the model enumerates all there is.
    has_sites = any(True for _ in sample_sites(guide_trace))
    traces = [guide_trace] if has_sites else [program.run_model(guide_trace, num_particles)]
    datum = Datum(plate, traces, program.particle_dim)

    drawn: dict[str, dict] = {}

    def log_p_of(start: int, length: int) -> Terms:
        if length == num_particles:
            return model_terms(program.run_model(guide_trace, length), datum, names)
        some = narrowed(guide_trace, program.particle_dim, start, length)
        if start > 0:
            some.nodes.update(drawn)
        model_trace = program.run_model(some, length, whole=False)
        if start == 0:
            drawn.update(subsamples(model_trace))
        return model_terms(model_trace, datum, names)

    if chunk_size is None or chunk_size >= num_particles:
        log_p, log_likelihood = log_p_of(0, num_particles)
    else:
        log_p, log_likelihood = _in_chunks(log_p_of, datum, num_particles, chunk_size)
    log_q, outer, inner = guide_terms(guide_trace, datum)
    sampled = sampled_sites(guide_trace)
    return LogWeights(log_p, log_likelihood, log_q, outer, inner, datum, sampled, paths)


def sampled_sites(guide_trace: Trace) -> list[dict]:
    """Return the guide's sites that are sampled, not enumerated."""
    return [site for site in sample_sites(guide_trace) if not is_enumerated(site)]


def same_weight(one: dict, other: dict) -> bool:
    """Tell whether two sites have the same scale and mask."""
    return _same(one["scale"], other["scale"]) and _same(one["mask"], other["mask"])


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or torch.equal(one, other)
    return one is other or (not isinstance(one, Tensor) and one == other)


def model_terms(
    trace: Trace, datum: Datum, guide_names: Collection[str], skip: Collection[str] = ()
) -> Terms:
    """Return the model's log-density and that of its observed sites, some sites left out."""
    log_p, log_likelihood = torch.zeros(()), torch.zeros(())
    summed_out = []
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
            summed_out.append(datum.enumeration_dim(site))
            term = _summed_out(site, datum)
        else:
            term = datum.log_prob(site)
        log_p = log_p + term
        if site["is_observed"] and not is_given_latent(site):
            log_likelihood = log_likelihood + term
    if summed_out and datum.subsampled:
        site_name, plate = datum.subsampled[0]
        raise NotImplementedError(
            f"site {site_name!r} is in the inner plate {plate!r}, which is subsampled, and a site "
            f"enumerated in the model alone is summed out over it: log Σ_y of a scaled log-density "
            f"is no bound on log p(x); use the whole plate, or enumerate in the guide"
        )
    for dim in summed_out:
        log_p = log_sum(log_p, dim)
    return log_p, None if summed_out else log_likelihood


def _summed_out(site: dict, datum: Datum) -> Tensor:
    """Return the log-density of a site whose values are to be summed out.

    Where it is masked it is the plain normalised prior: with 0 instead, summing would count the
    values, and each masked datum would add log |Y|.
    """
    log_prob = datum.log_prob({**site, "mask": None})
    if site["mask"] is None or site["mask"] is True:
        return log_prob
    if site["mask"] is False:
        return log_density(site)
    return torch.where(site["mask"], log_prob, log_density(site))


def guide_terms(
    trace: Trace, datum: Datum, skip: Collection[str] = ()
) -> tuple[Tensor, Enumerated, Enumerated]:
    """Return log q of the sampled sites, some left out, and the outer and inner enumerated ones."""
    log_q = torch.zeros(())
    outer: list[dict] = []
    inner: list[dict] = []
    sampled = False
    for site in sample_sites(trace):
        if is_enumerated(site):
            (inner if sampled else outer).append(site)
        else:
            sampled = True
            if site["name"] not in skip:
                log_q = log_q + datum.log_prob(site)
    return log_q, _enumerated(outer, datum, same_for_all=True), _enumerated(inner, datum)


def _enumerated(sites: list[dict], datum: Datum, *, same_for_all: bool = False) -> Enumerated:
    log_prob, cost = torch.zeros(()), torch.zeros(())
    if not sites:
        return Enumerated(log_prob, cost, ())
    dims = tuple(map(datum.enumeration_dim, sites))
    for site in sites:
        log_prob = log_prob + log_density(site)
        cost = cost + datum.log_prob(site)
    cost = cost.expand(torch.broadcast_shapes(cost.shape, log_prob.shape))
    if same_for_all:
        # Nothing was sampled before, so all particles agree.
        log_prob = log_prob.narrow(datum.particle_dim, 0, 1)
        cost = cost.narrow(datum.particle_dim, 0, 1)
    return Enumerated(log_prob, cost, dims)


def _in_chunks(
    log_p_of: Callable[[int, int], Terms], datum: Datum, num_particles: int, chunk_size: int
) -> Terms:
    """Evaluate the model chunk by chunk; each is run again when differentiating."""
    drawn: dict[int, dict[str, Any]] = {}

    def again(start: int, length: int) -> Terms:
        # torch would put the random state back outside of the turn, in the midst of another's.
        with exclusively(), restored() if start in drawn else nullcontext():
            if start in drawn:
                set_random_state(drawn[start])
            else:
                drawn[start] = random_state()
            return log_p_of(start, length)

    parts = []
    for start in range(0, num_particles, chunk_size):
        length = min(chunk_size, num_particles - start)
        if torch.is_grad_enabled():
            parts.append(
                checkpoint(again, start, length, use_reentrant=False, preserve_rng_state=False)
            )
        else:
            parts.append(log_p_of(start, length))
    log_p = torch.cat([log_p for log_p, _ in parts], datum.particle_dim)
    likelihoods = [term for _, term in parts if term is not None]
    return log_p, torch.cat(likelihoods, datum.particle_dim) if likelihoods else None


def _cut(
    program: Program, trace: Trace, num_particles: int
) -> tuple[Trace, list[tuple[Tensor, Tensor]]]:
    """Replace each reparameterised value by a leaf, and let the guide's densities see the leaves.

    Stopping the gradient site by site would be wrong for q(z2|z1), whose parameters depend on z1:
    the guide is run again at the leaves where a site follows another.
    """
    sites = sampled_sites(trace)
    attached = {
        site["name"]: site["value"]
        for site in sites
        if site["fn"].has_rsample and site["value"].requires_grad
    }
    detached = {name: value.detach().requires_grad_() for name, value in attached.items()}
    cut = with_values(trace, lambda site: detached.get(site["name"], site["value"]))
    followed = bool(sites) and list(sample_sites(trace))[-1] is not sites[0]
    if followed:
        cut = program.run_guide(num_particles, replay=cut)
    return cut, [(detached[name], attached[name]) for name in attached]
