"""The ELBO with the KL in closed form."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from ppl_vae.errors import flag, number
from ppl_vae.estimators.batch_plate import BatchPlate
from ppl_vae.estimators.densities import guide_terms, model_terms, same_weight, sampled_sites
from ppl_vae.estimators.log_weights import LogWeights
from ppl_vae.estimators.masks import Mask, elementwise, is_masked
from ppl_vae.estimators.objective import Objective
from ppl_vae.estimators.particle_check import check_particles
from ppl_vae.estimators.per_datum import Bound, PerDatumELBO
from ppl_vae.estimators.score_function import has_scores, score_term, with_pairs
from ppl_vae.estimators.traces import Runner, is_enumerated, sample_sites, total

_ELBO = Objective(alpha=1)


class ClosedForm(NamedTuple):
    """The KL of a site of guide and model in closed form, element masks included."""

    q: dict
    p: dict
    kl: Tensor
    """Under the masks within p's events."""
    entropies: tuple[Tensor, Tensor] | None
    """H(q) under the masks within p's events and q's; None if scales and masks are the same."""


class AnalyticKLELBO(PerDatumELBO):
    r"""The ELBO with every KL(q(z|·) ‖ p(z|·)) in closed form, or an error.

        ELBO = E_q [ log p(x|z) ] - KL(q(z|x) ‖ p(z)),

    in nats per batch; the likelihood is estimated by ``num_particles`` draws. A y enumerated in the
    guide is summed exactly, with the KL inside: Σ_y q(y|x) [ E log p(x|z,y) - KL(q(z|x,y) ‖ p(z))
    + log p(y) - log q(y|x) ]. Pyro's ``TraceMeanField_ELBO`` silently falls back to Monte Carlo
    where no KL is registered, and reads only the guide's scale and mask.

    A site has a closed form if torch's ``kl_divergence`` supports the pair of distributions and
    the guide draws no site later that the model's density may depend on: in q(z1|x) q(z2|z1)
    against p(z2) p(z1|z2), z2's KL is exact given z1, but z1's is not, since z2 depends on z1. With
    different scales or masks, s log p - t log q is -s KL + (t - s) H(q), dimension by dimension for
    masks within events.

    Source: Kingma & Welling 2014 (arXiv 1312.6114), equation 10; free bits: Kingma et al. 2016
    (arXiv 1606.04934), equation 15.

    Args:
        num_particles: draws for the likelihood, in one vectorised dimension.
        monte_carlo: estimate terms without a closed form instead of raising.
        gradient: ``"path"`` for guides whose sites are all reparameterised or enumerated; ``"loo"``
            or ``"disarm"`` for any, as in :class:`ImportanceWeightedELBO`: the other sites get
            Σ_k (log w_k - baseline) ∂log q_k / K, with the KL in closed form in log w, or, if
            Bernoulli, DisARM's gradient of ``num_particles`` pairs.
        free_bits: λ in nats per latent dimension: the gradient is that of the ELBO with
            β Σ_d max(λ, mean over the data of KL_d), so that a KL below λ is not reduced further.
            The value returned is the ELBO. 0 turns them off.
        plate: name of the batch plate.
        max_plate_nesting: number of dimensions of the program's plates; found by running it once
            if not given.

    Raises:
        NotImplementedError: if a term has no closed form and ``monte_carlo`` is off; if the KL is
            not a sum over dimensions, with free bits; when differentiating with ``"path"``, if a
            site is neither reparameterised nor enumerated.
        ValueError: if a site lies outside the batch plate.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        monte_carlo: bool = False,
        gradient: Literal["path", "loo", "disarm"] = "path",
        free_bits: int | float = 0.0,
        plate: str = "data",
        max_plate_nesting: int | None = None,
    ) -> None:
        super().__init__(num_particles, plate=plate, max_plate_nesting=max_plate_nesting)
        self.monte_carlo = flag("AnalyticKLELBO", "monte_carlo", monte_carlo)
        if gradient not in ("path", "loo", "disarm"):
            expected = "'path', 'loo' or 'disarm'"
            raise ValueError(f"AnalyticKLELBO: gradient must be {expected}, got {gradient!r}")
        self.gradient = gradient
        self.free_bits = number("AnalyticKLELBO", "free_bits", free_bits, least=0)

    def _bounds(self, runner: Runner) -> list[Bound]:
        particles, alone = self.num_particles, runner
        if self.gradient == "disarm":
            particles *= 2
            runner = with_pairs(runner, particles)
        guide_trace = runner.run_guide(particles)
        model_trace = runner.run_model(guide_trace, particles)
        check_particles(alone, particles)
        plate = BatchPlate(self.plate, [guide_trace, model_trace], runner.particle_dim)
        closed = self._closed_forms(guide_trace, model_trace)
        kl = {name: _weighted_kl(form, plate) for name, form in closed.items()}
        log_p, _ = model_terms(model_trace, plate, guide_trace.nodes, skip=closed)
        log_q, outer, inner = guide_terms(guide_trace, plate, instead=kl)
        sampled = sampled_sites(guide_trace)
        weights = LogWeights(log_p, None, log_q, outer, inner, plate, sampled)
        differentiate = torch.is_grad_enabled()
        if differentiate and self.gradient == "path":
            weights.check_reparameterised()
        elbo = weights.elbo()
        added = []
        if differentiate and has_scores(weights):
            weights.check_inner()
            added.append(score_term(weights, _ELBO, self.gradient, weights.log_w, without=closed))
        if differentiate and self.free_bits > 0:
            added.append(-self._free_bits_excess(closed, weights))
        surrogate = elbo.sum() + total(added) if added else None
        return [Bound(elbo, plate.scale, surrogate)]

    def _closed_forms(self, guide: Trace, model: Trace) -> dict[str, ClosedForm]:
        """Return the sites whose KL has a closed form; raise for the others."""
        found = {}
        drawn: set[str] = set()
        for q in sample_sites(guide):
            name = q["name"]
            drawn.add(name)
            if is_enumerated(q):
                continue
            try:
                found[name] = _closed_form(q, model, drawn)
            except NotImplementedError as obstacle:
                if self.monte_carlo and self.free_bits == 0:
                    continue
                raise NotImplementedError(
                    f"AnalyticKLELBO: no closed form of the KL at site {name!r}: {obstacle}; pass "
                    f"monte_carlo=True to estimate this term (without free_bits), or use Trace_ELBO"
                ) from None
        return found

    def _free_bits_excess(self, closed: dict[str, ClosedForm], weights: LogWeights) -> Tensor:
        """Return Σ_d max(B λ, Σ_b KL_d) - Σ_d Σ_b KL_d, over all latents."""
        excess = torch.zeros(())
        plate = weights.plate
        for q, p, _, entropies in closed.values():
            if not (_factorises(q["fn"], p["fn"]) and entropies is None):
                raise NotImplementedError(
                    f"AnalyticKLELBO: free_bits needs a KL that is a sum over latent dimensions, "
                    f"with one scale and mask in model and guide, but at site {q['name']!r} it is "
                    f"KL({_name(q['fn'])} ‖ {_name(p['fn'])})"
                )
            per_dimension = kl_divergence(q["fn"].base_dist, p["fn"].base_dist).unbind(-1)
            # λ per datum, scaled and masked as its KL.
            floor = self.free_bits * plate.reduce(torch.ones_like(per_dimension[0]), p)
            floor = weights.mean_over_particles(floor).sum()
            for kl in per_dimension:
                kl = weights.mean_over_particles(plate.reduce(kl, p)).sum()
                excess = excess + (floor - kl).clamp(min=0)
        return excess


def _closed_form(q: dict, model: Trace, drawn: set[str]) -> ClosedForm:
    """Return a site's KL in closed form, or raise NotImplementedError with the reason."""
    if q["name"] not in model.nodes:
        raise NotImplementedError("it is not in the model")
    p = model.nodes[q["name"]]
    for earlier in sample_sites(model):
        if earlier["name"] == p["name"]:
            break
        if earlier["is_observed"] or earlier["name"] in drawn:
            continue
        if not (is_enumerated(earlier) and _does_not_vary(p, earlier)):
            order = f"the model draws {earlier['name']!r} before it and the guide after it"
            raise NotImplementedError(f"{order}, so that one may depend on the other")
    if isinstance(getattr(q["fn"], "base_dist", q["fn"]), Delta):
        raise NotImplementedError("a point mass has no KL to a density")
    q_fn, q_mask, q_count = _unmasked(q["fn"])
    p_fn, p_mask, p_count = _unmasked(p["fn"])
    count = max(q_count, p_count)  # of the event dimensions that are masked elementwise
    q_fn, p_fn = _with_batch_dims(q_fn, count), _with_batch_dims(p_fn, count)
    try:
        divergence = kl_divergence(q_fn, p_fn)
    except NotImplementedError:
        kinds = f"{_name(q_fn)} ‖ {_name(p_fn)}"
        raise NotImplementedError(f"none is registered for KL({kinds})") from None
    if count > 0:
        q_mask, p_mask = _padded(q_mask, count - q_count), _padded(p_mask, count - p_count)
    kl = _masked_sum(divergence, p_mask, count)
    same_masks = count == 0 or same_weight({**q, "mask": q_mask}, {**p, "mask": p_mask})
    if same_masks and same_weight(q, p):
        return ClosedForm(q, p, kl, None)
    try:
        entropy = q_fn.entropy()
    except NotImplementedError:
        obstacle = f"its scale or mask differs in the model, and {_name(q_fn)} has no entropy"
        raise NotImplementedError(obstacle) from None
    entropies = _masked_sum(entropy, p_mask, count), _masked_sum(entropy, q_mask, count)
    return ClosedForm(q, p, kl, entropies)


def _unmasked(distribution: Distribution) -> tuple[Distribution, Mask, int]:
    """Return ``elementwise(distribution)``, or raise if a mask is on something not a factor."""
    if not is_masked(distribution):
        return distribution, None, 0
    bare, mask, count = elementwise(distribution)
    if is_masked(bare):
        raise NotImplementedError("there is a mask on a part of its distribution")
    return bare, mask, count


def _with_batch_dims(distribution: Distribution, count: int) -> Distribution:
    """Return a distribution with its first event dimensions as batch dimensions, or raise."""
    if count == 0:
        return distribution
    if isinstance(distribution, Independent) and distribution.reinterpreted_batch_ndims >= count:
        return distribution.to_event(-count)  # type: ignore[attr-defined]
    obstacle = f"and {_name(distribution)} is not a product over them"
    raise NotImplementedError(f"dimensions of its events are masked elementwise, {obstacle}")


def _padded(mask: Mask, further: int) -> Mask:
    """Return a mask with ``further`` dimensions appended on the right."""
    return mask[(..., *[None] * further)] if isinstance(mask, Tensor) else mask


def _masked_sum(term: Tensor, mask: Mask, count: int) -> Tensor:
    """Apply a mask to the last ``count`` dimensions of a term and sum over them."""
    return term if count == 0 else scale_and_mask(term, mask=mask).flatten(-count).sum(-1)


def _does_not_vary(site: dict, enumerated: dict) -> bool:
    """Return whether, by its shape, a site's density is constant in an enumerated value."""
    dim, shape = enumerated["infer"]["_enumerate_dim"], site["fn"].batch_shape
    return len(shape) < -dim or shape[dim] == 1


def _weighted_kl(form: ClosedForm, plate: BatchPlate) -> Tensor:
    """Return E_q [t log q - s log p] for the scales and masks t of the guide, s of the model."""
    q, p, kl, entropies = form
    if entropies is None:
        return plate.reduce(kl, p)
    return plate.reduce(kl + entropies[0], p) - plate.reduce(entropies[1], q)


def _factorises(q: Distribution, p: Distribution) -> bool:
    return all(
        isinstance(d, Independent) and d.reinterpreted_batch_ndims == 1 and not is_masked(d)
        for d in (q, p)
    )


def _name(distribution: Distribution) -> str:
    if isinstance(distribution, Independent):
        return f"Independent({_name(distribution.base_dist)})"
    return type(distribution).__name__
