"""Importance weights per particle and datum."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent
from torch.utils.checkpoint import checkpoint

from ppl_vae.buffers import BuffersOfParts
from ppl_vae.estimators.batch_plate import BatchPlate, OutsidePlateError
from ppl_vae.estimators.densities import (
    Enumeration,
    Terms,
    guide_terms,
    model_terms,
    same_weight,
    sampled_sites,
)
from ppl_vae.estimators.handlers import Cutting, EnumerationMark
from ppl_vae.estimators.masks import is_masked
from ppl_vae.estimators.particle_check import check_particles
from ppl_vae.estimators.traces import (
    PlateNesting,
    Runner,
    narrowed,
    point_masses,
    sample_sites,
    subsamples,
)
from ppl_vae.estimators.training_terms import is_training_term, without_training_terms
from ppl_vae.process_state import exclusively, restored
from ppl_vae.random_state import random_state, set_random_state


@dataclass(frozen=True)
class LogWeights:
    r"""log w = Σ_model log p - Σ_guide log q of each particle for each datum, and its parts.

    The batch plate's N/B is kept apart, in ``plate.scale``; every other scale (β), every mask and
    every inner plate is inside. Tensors broadcast to ``(*enumerated, particles, *plates)``, where
    the only plate of size above 1 is the batch.

    The guide's enumerated values are *outer* if they come before anything the guide samples (y in
    q(y|x) q(z|x,y)), and *inner* if they come after (y in q(z|x) q(y|x,z)).

    Args:
        log_p: the model's sites; values enumerated only in the model are summed out.
        log_likelihood: the observed sites, but for labels that would otherwise be enumerated; None
            if a site is enumerated in the model alone.
        log_q: the guide's sampled sites.
        outer: the guide's outer enumerated sites.
        inner: the guide's inner enumerated sites.
        plate: the batch plate.
        sampled: the guide's sampled sites themselves.
        paths: per reparameterised site, in the order of sampling, the leaf that the densities and
            later sites saw, and the value it was cut from, if the weights were computed with
            ``leaves=True``.
    """

    log_p: Tensor
    log_likelihood: Tensor | None
    log_q: Tensor
    outer: Enumeration
    inner: Enumeration
    plate: BatchPlate
    sampled: list[dict] = field(default_factory=list)
    paths: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def log_w(self) -> Tensor:
        """log w in expectation over inner enumerated values: ``(*outer, particles, *plates)``."""
        return self.inner.expectation(self.log_p - self.log_q, entropy=True)

    def elbo(self) -> Tensor:
        """Return E_q [log w], the entropy of outer values included: the ELBO, ``(batch,)``."""
        log_w = self.log_w
        if log_w.shape[self.plate.particle_dim] > 1:
            log_w = log_w.mean(self.plate.particle_dim, keepdim=True)
        return self.plate.per_datum(self.outer.expectation(log_w, entropy=True))

    def summed(self, num_particles: int) -> Tensor:
        """Return log Σ_y w_y over enumerated y, shape ``(particles, batch)``; E[Σ_y w_y] = p(x)."""
        log_w = self.inner.log_sum(self.outer.log_sum(self.log_p - self.log_q))
        return self.plate.per_particle(log_w, num_particles)

    def mean_over_particles(self, term: Tensor) -> Tensor:
        """Return E_q of a term of each particle, per datum, shape ``(batch,)``."""
        term = self.inner.expectation(term).mean(self.plate.particle_dim, keepdim=True)
        return self.plate.per_datum(self.outer.expectation(term))

    def expected(self, term: Tensor) -> Tensor:
        """Return a term of each particle in expectation over outer values, fixed, and summed."""
        return self.outer.fixed_expectation(term).sum()

    def guide_weight(self) -> Tensor | float:
        """Return the weight t of log q in log w, from scales (without N/B) and masks.

        Raises NotImplementedError if it differs between the guide's sampled sites.
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
        has_inner = any(frame.vectorized for frame in self.plate.inner_plates(first))
        inner = first if first["mask"] is not None and has_inner else None
        for site in filter(None, [inner, *(s for s in others if not same_weight(s, first))]):
            raise NotImplementedError(
                f"gradient='dreg' needs one scale and mask for all sampled sites of the guide, but "
                f"that of {site['name']!r} differs; use gradient='iwae'"
            )
        scale = first["scale"] / self.plate.scale
        return scale if first["mask"] is None else first["mask"] * scale

    def check_inner(self) -> None:
        """Raise NotImplementedError if a site is sampled after an inner enumerated one.

        The gradients of the guide cannot be separated then.
        """
        for dim in self.inner.dims:
            if self.log_q.dim() >= -dim and self.log_q.shape[dim] > 1:
                raise NotImplementedError(
                    "the guide samples a site after an enumerated one that itself comes after a "
                    "sampled site; only gradient='iwae' supports this"
                )

    def check_whole_plates(self, num_particles: int) -> None:
        """Raise NotImplementedError if the scale of a subsampled inner plate is in an exponent.

        exp is convex: E exp(6/2 Σ over 2 of 6) is not exp(Σ over 6), but above it.
        """
        for site, plate in self.plate.subsampled:
            raise NotImplementedError(
                f"site {site!r} is in the inner plate {plate!r}, which is subsampled: its scale in "
                f"the exponent is no bound on log p(x) with {num_particles} particles; use the "
                f"whole plate, or one particle (the ELBO)"
            )

    def check_no_training_terms(self, gradient: str) -> None:
        """Raise NotImplementedError if the guide has a training term, whose gradient is direct."""
        for site in filter(is_training_term, self.sampled):
            raise NotImplementedError(
                f"site {site['name']!r} of the guide is a term of training, and gradient="
                f"{gradient!r} has no gradient of the guide's own terms; use gradient='iwae'"
            )

    def check_reparameterised(self) -> None:
        """Raise NotImplementedError, naming the site, if the gradient would miss a term."""
        for site in self.sampled:
            if not site["fn"].has_rsample:
                few = "" if site["fn"].event_dim else ", or infer={'enumerate': 'parallel'} on it"
                raise NotImplementedError(
                    f"site {site['name']!r} of the guide, {_kind(site['fn'])}, is neither "
                    f"reparameterised nor enumerated, so the gradient would miss a term; use "
                    f"ImportanceWeightedELBO with gradient='vimco', 'loo' or 'disarm'{few}"
                )


def log_weights(
    runner: Runner,
    *,
    num_particles: int,
    plate: str | None,
    chunk_size: int | None = None,
    leaves: bool = False,
) -> LogWeights:
    """Run model and guide and weigh the particles.

    With a ``chunk_size`` the model runs on so many particles at a time, and again when
    differentiating: the memory is that of one chunk, draws and values are the same; all chunks
    share the model's subsamples. With ``leaves`` the graph is cut at each reparameterised value,
    see :attr:`LogWeights.paths`.
    """
    guide_trace, paths = _run_guide(runner, num_particles, leaves)
    names = set(guide_trace.nodes)
    chunked = chunk_size is not None and chunk_size < num_particles
    buffers = BuffersOfParts(*runner.modules) if chunked else None
    # A guide may have no sites, if the model enumerates all latents.
    whole = None
    if not any(sample_sites(guide_trace)):
        with nullcontext() if buffers is None else buffers.part(num_particles, again=True):
            whole = runner.run_model(guide_trace, num_particles)
        guide_trace.nodes.update(subsamples(whole))
    run = guide_trace if whole is None else whole
    batch_plate = BatchPlate(plate, [run], runner.particle_dim)

    subsampled: dict[str, dict] = {}

    def log_p_of(start: int, length: int) -> Terms:
        if length == num_particles:
            trace = runner.run_model(guide_trace, length) if whole is None else whole
            return model_terms(trace, batch_plate, names)
        chunk = narrowed(guide_trace, runner.particle_dim, start, length)
        if start > 0:
            chunk.nodes.update(subsampled)
        model_trace = runner.run_model(chunk, length, whole=False)
        if start == 0:
            subsampled.update(subsamples(model_trace))
        return model_terms(model_trace, batch_plate, names)

    if buffers is None or chunk_size is None:
        log_p, log_likelihood = log_p_of(0, num_particles)
    else:
        log_p, log_likelihood = _in_chunks(
            log_p_of, batch_plate, num_particles, chunk_size, buffers
        )
    return _weights((log_p, log_likelihood), guide_trace, batch_plate, paths)


def log_weights_by_plate(
    runner: Runner, *, num_particles: int, plates: tuple[str, ...], leaves: bool = False
) -> list[LogWeights]:
    """Run model and guide once and weigh the particles of several independent batch plates."""
    guide_trace, paths = _run_guide(runner, num_particles, leaves)
    model_trace = runner.run_model(guide_trace, num_particles)
    weights = []
    for plate in plates:
        guide, model = (_in_plate(trace, plate, plates) for trace in (guide_trace, model_trace))
        batch_plate = BatchPlate(plate, [guide, model], runner.particle_dim)
        terms = model_terms(model, batch_plate, set(guide.nodes))
        weights.append(_weights(terms, guide, batch_plate, paths))
    return weights


def _weights(
    terms: Terms, guide_trace: Trace, plate: BatchPlate, paths: list[tuple[Tensor, Tensor]]
) -> LogWeights:
    log_q, outer, inner = guide_terms(guide_trace, plate)
    return LogWeights(*terms, log_q, outer, inner, plate, sampled_sites(guide_trace), paths)


def _in_plate(trace: Trace, plate: str, plates: tuple[str, ...]) -> Trace:
    """Return the trace of the sites in one of several plates, each of which must be in one."""
    kept = Trace()
    for site in sample_sites(trace):
        names = {frame.name for frame in site["cond_indep_stack"] if frame.vectorized}
        found = [name for name in plates if name in names]
        if not found:
            raise OutsidePlateError(
                f"site {site['name']!r} is outside the batch plates {plates}, so it has no "
                f"per-datum weight; use one particle (the ELBO), or plate=None for one weight of "
                f"the whole program"
            )
        if len(found) > 1:
            raise ValueError(
                f"site {site['name']!r} is in two batch plates, {found[0]!r} and {found[1]!r}, "
                f"which are not independent then; give the outer one, or plate=None"
            )
        if found == [plate]:
            kept.nodes[site["name"]] = site
    return kept


class WeightedParticles(NamedTuple):
    """Draws by site, ``(particles, *plates, *event)``, and log p(x, z) - log q(z | x) in nats.

    ``point_masses`` are the sites that the guide draws from a single point and the model does not:
    all particles agree there, and their weights say nothing of the posterior.
    """

    log_weights: Tensor
    latents: dict[str, Tensor]
    point_masses: tuple[str, ...] = ()


def weighted_particles(
    model: Callable,
    guide: Callable,
    *args: Any,
    num_particles: int,
    plate: str = "data",
    max_plate_nesting: int | None = None,
    **kwargs: Any,
) -> WeightedParticles:
    """Draw particles from a guide and weigh them, per datum, training terms left out.

    All latents of the guide are sampled, also those marked for enumeration; latents enumerated in
    the model alone are summed out. Masks and scales (without N/B) are inside the weights.

    Args:
        model: the generative program.
        guide: the variational program.
        args: positional arguments of both, such as x, and ``kwargs`` keyword arguments.
        num_particles: draws per datum, in one vectorised dimension left of all plates.
        plate: name of the batch plate.
        max_plate_nesting: number of dimensions of the programs' plates; found by running them once
            if not given.
    """
    model, guide = without_training_terms(model, guide)
    with exclusively():
        if max_plate_nesting is None:
            max_plate_nesting = PlateNesting()(model, guide, args, kwargs)
        sampling = EnumerationMark(None)(guide)
        dim = -max_plate_nesting - 1
        drawn = Runner(model, sampling, args, kwargs, dim).run_guide(num_particles)
        latents = {site["name"]: site for site in sample_sites(drawn) if not site["is_observed"]}
        replayed = EnumerationMark(None, latents)(model)
        scored = Runner(replayed, guide, args, kwargs, dim).run_model(drawn, num_particles)
        check_particles(Runner(replayed, sampling, args, kwargs, dim), num_particles)
        batch_plate = BatchPlate(plate, [drawn, scored], dim)
        log_p, _ = model_terms(scored, batch_plate, drawn.nodes)
        log_q, _, _ = guide_terms(drawn, batch_plate)
    log_w = batch_plate.per_particle(log_p - log_q, num_particles)
    values = {name: site["value"] for name, site in latents.items()}
    return WeightedParticles(log_w, values, point_masses(drawn, scored))


def _in_chunks(
    log_p_of: Callable[[int, int], Terms],
    plate: BatchPlate,
    num_particles: int,
    chunk_size: int,
    buffers: BuffersOfParts,
) -> Terms:
    """Evaluate the model chunk by chunk; each is run again when differentiating."""
    states: dict[int, dict[str, Any]] = {}

    def replayed(start: int, length: int) -> Terms:
        # torch would restore the random state outside of the turn, while another thread draws.
        again = start in states
        with exclusively(), restored() if again else nullcontext():
            if again:
                set_random_state(states[start])
            else:
                states[start] = random_state()
            with buffers.part(length, again=again):
                return log_p_of(start, length)

    log_p, likelihoods = [], []
    for start in range(0, num_particles, chunk_size):
        length = min(chunk_size, num_particles - start)
        if torch.is_grad_enabled():
            joint, likelihood = checkpoint(
                replayed, start, length, use_reentrant=False, preserve_rng_state=False
            )
        else:
            with buffers.part(length):
                joint, likelihood = log_p_of(start, length)
        log_p.append(_of_particles(joint, plate.particle_dim, length))
        if likelihood is not None:
            likelihoods.append(_of_particles(likelihood, plate.particle_dim, length))
    buffers.merge()
    dim = plate.particle_dim
    return torch.cat(log_p, dim), torch.cat(likelihoods, dim) if likelihoods else None


def _of_particles(term: Tensor, dim: int, length: int) -> Tensor:
    """Expand a term that may be the same for all particles."""
    shape = [1] * (-dim - term.dim()) + list(term.shape)
    shape[dim] = length
    return term.expand(shape)


def _run_guide(
    runner: Runner, num_particles: int, leaves: bool
) -> tuple[Trace, list[tuple[Tensor, Tensor]]]:
    """Run the guide; with ``leaves`` the graph is cut at each reparameterised value."""
    if not leaves:
        return runner.run_guide(num_particles), []
    with Cutting() as cutting:
        return runner.run_guide(num_particles), cutting.paths


def _kind(fn: Any) -> str:
    """Return the name of a distribution, of one with more event dimensions that of its entries."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return type(fn).__name__
