"""Importance weights per datum and particle, read off the traces of a model and a guide."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor

from ppl_vae.estimators.traces import PARTICLES, TracePair


@dataclass(frozen=True)
class LogWeights:
    r"""log w = Σ_model log p - Σ_guide log q of each particle for each datum, and its parts.

    The batch plate's N/B is kept apart, in ``scale``; every other scale (β), every mask and every
    inner plate is inside. Tensors broadcast to ``(*enumerated, particles, *plates)``, where the
    only plate of size above 1 is the batch.

    The guide's enumerated values are either *outer*, when they come before anything the guide
    samples (y in q(y|x) q(z|x,y)), or *inner*, when they come after (y in q(z|x) q(y|x,z)).

    Args:
        log_p: the model's sites; values enumerated only in the model are summed out.
        log_likelihood: the observed sites alone, where no value is enumerated in the model.
        log_q: the guide's sampled sites.
        outer: the guide's outer enumerated sites, with ``inner`` likewise.
        particle_dim: where the particles are.
        batch_dim: where the batch is.
        batch_size: its size B.
        scale: N/B.
    """

    log_p: Tensor
    log_likelihood: Tensor | None
    log_q: Tensor
    outer: Enumerated
    inner: Enumerated
    particle_dim: int
    batch_dim: int
    batch_size: int
    scale: float

    @property
    def log_w(self) -> Tensor:
        """log w, the expectation over inner enumerated values taken: ``(*outer, K, *plates)``."""
        return self.inner.expectation(self.log_p - self.log_q, entropy=True)

    def mean_over_particles(self, term: Tensor) -> Tensor:
        """Return E_q of a term of each particle, per datum, shape ``(batch,)``."""
        term = self.inner.expectation(term).mean(self.particle_dim, keepdim=True)
        return self.per_datum(self.outer.expectation(term))

    def log_mean_exp(self) -> Tensor:
        """Return log (1/K) Σ_k w_k, shape ``(*outer, 1, *plates)``."""
        log_w = self.log_w
        total = log_w.logsumexp(self.particle_dim, keepdim=True)
        return total - math.log(log_w.shape[self.particle_dim])

    def bound(self) -> Tensor:
        """Return Σ_y q(y) [log (1/K) Σ_k w_k - log q(y)] over outer y, per datum, ``(batch,)``."""
        return self.per_datum(self.outer.expectation(self.log_mean_exp(), entropy=True))

    def elbo(self) -> Tensor:
        """Return E_q [log w] less the outer entropy's cost: the ELBO per datum, ``(batch,)``."""
        log_w = self.log_w.mean(self.particle_dim, keepdim=True)
        return self.per_datum(self.outer.expectation(log_w, entropy=True))

    def per_datum(self, term: Tensor) -> Tensor:
        """Bring a term with nothing left but the batch to shape ``(batch,)``."""
        shape = [1] * -self.batch_dim
        shape[0] = self.batch_size
        return term.expand(torch.broadcast_shapes(term.shape, tuple(shape))).reshape(-1)


@dataclass(frozen=True)
class Enumerated:
    """Enumerated values of the guide: an exact expectation over them.

    Args:
        log_prob: unscaled and unmasked: the probabilities of the expectation.
        cost: scaled and masked: what enters the bound.
        dims: the enumeration dimensions.
    """

    log_prob: Tensor
    cost: Tensor
    dims: tuple[int, ...]

    def expectation(self, term: Tensor, *, entropy: bool = False) -> Tensor:
        """Return Σ_y q(y) term(y), or Σ_y q(y) [term(y) - log q(y)] with the entropy."""
        if not self.dims:
            return term
        probability = self.log_prob.exp()
        if entropy:
            term = term - self.cost
        # Where q(y) = 0 the term may be infinite and still contributes nothing.
        term = torch.where(probability > 0, term, 0.0)
        return (probability * term).sum(self.dims, keepdim=True)


def log_weights(traces: TracePair, plate: str) -> LogWeights:
    """Read the log weights off a pair of traces.

    Args:
        traces: the guide's run and the model's against it.
        plate: name of the batch plate.

    Raises:
        ValueError: if a site lies outside the batch plate, so that no per-datum weight exists.
        NotImplementedError: if a site is enumerated inside an inner plate.
    """
    datum = _Datum(plate, traces)
    zero = torch.zeros(())
    log_p, log_likelihood, log_q = zero, zero, zero
    outer: list[dict] = []
    inner: list[dict] = []
    sampled = False
    for site in _sample_sites(traces.guide):
        if not _is_enumerated(site):
            sampled = True
            log_q = log_q + datum.log_prob(site)
        else:
            (inner if sampled else outer).append(site)
    summed_out: list[int] = []
    for site in _sample_sites(traces.model):
        in_model_only = site["name"] not in traces.guide.nodes and not site["is_observed"]
        if in_model_only and not _is_enumerated(site):
            raise ValueError(
                f"latent site {site['name']!r} is in the model but not in the guide; sample it in "
                f"the guide, or mark it infer={{'enumerate': 'parallel'}} in the model"
            )
        if in_model_only:
            summed_out.append(_enumeration_dim(datum.without_inner_plates(site)))
            # A masked datum must not count the values of its label: the prior stays normalised.
            site = {**site, "mask": None}
        term = datum.log_prob(site)
        log_p = log_p + term
        if site["is_observed"]:
            log_likelihood = log_likelihood + term
    for dim in summed_out:
        log_p = log_p.logsumexp(dim, keepdim=True)
    return LogWeights(
        log_p=log_p,
        log_likelihood=None if summed_out else log_likelihood,
        log_q=log_q,
        outer=datum.enumerated(outer, first_particle=True),
        inner=datum.enumerated(inner),
        particle_dim=traces.particle_dim,
        batch_dim=datum.frame.dim,
        batch_size=datum.frame.size,
        scale=datum.scale,
    )


class _Datum:
    """Reads log-probabilities of sites per datum: N/B taken out, inner plates summed."""

    def __init__(self, plate: str, traces: TracePair) -> None:
        self.plate = plate
        self.particle_dim = traces.particle_dim
        frames = {
            frame.name: frame
            for trace in (traces.guide, traces.model)
            for site in _sample_sites(trace)
            for frame in site["cond_indep_stack"]
            if frame.vectorized
        }
        if plate not in frames:
            found = sorted(frames.keys() - {PARTICLES})
            raise ValueError(
                f"no site is in a vectorised plate named {plate!r}, so there is no per-datum "
                f"weight; the plates are {found}: name the batch plate with plate=..."
            )
        self.frame = frames[plate]
        self.scale = (self.frame.full_size or self.frame.size) / self.frame.size

    def log_prob(self, site: dict) -> Tensor:
        frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
        if self.plate not in (frame.name for frame in frames):
            raise ValueError(
                f"site {site['name']!r} is outside the batch plate {self.plate!r}: it belongs to "
                f"all data at once, so no per-datum weight exists; move it into the plate, or use "
                f"Trace_ELBO"
            )
        log_prob = scale_and_mask(
            site["unscaled_log_prob"], site["scale"] / self.scale, site["mask"]
        )
        for frame in self._inner(site):
            if log_prob.dim() >= -frame.dim:
                log_prob = log_prob.sum(frame.dim, keepdim=True)
        return log_prob

    def enumerated(self, sites: list[dict], *, first_particle: bool = False) -> Enumerated:
        log_prob, cost = torch.zeros(()), torch.zeros(())
        for site in map(self.without_inner_plates, sites):
            log_prob = log_prob + site["unscaled_log_prob"]
            cost = cost + self.log_prob(site)
        if first_particle and sites:
            # Nothing was sampled before, so all particles agree.
            log_prob = log_prob.narrow(self.particle_dim, 0, 1)
            cost = cost.narrow(self.particle_dim, 0, 1)
        return Enumerated(log_prob, cost, tuple(map(_enumeration_dim, sites)))

    def without_inner_plates(self, site: dict) -> dict:
        inner = [frame.name for frame in self._inner(site)]
        if inner:
            raise NotImplementedError(
                f"site {site['name']!r} is enumerated inside the inner plate {inner[0]!r}; "
                f"a per-datum weight would need all joint values of the plate. Enumerate outside "
                f"inner plates, or use TraceEnum_ELBO"
            )
        return site

    def _inner(self, site: dict) -> list:
        return [
            frame
            for frame in site["cond_indep_stack"]
            if frame.vectorized and frame.name not in (self.plate, PARTICLES)
        ]


def _sample_sites(trace: Trace) -> list[dict]:
    """Return the sites that have a density; deterministic ones carry ``mask=False``."""
    return [
        site
        for site in trace.nodes.values()
        if site["type"] == "sample" and site["mask"] is not False
    ]


def _is_enumerated(site: dict) -> bool:
    return site["infer"].get("_enumerate_dim") is not None


def _enumeration_dim(site: dict) -> int:
    return site["infer"]["_enumerate_dim"]
