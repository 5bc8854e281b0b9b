"""The ELBO with the KL in closed form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from ppl_vae.errors import flag, number
from ppl_vae.estimators.datum import Datum
from ppl_vae.estimators.log_weights import (
    LogWeights,
    guide_terms,
    model_terms,
    same_weight,
    sampled_sites,
)
from ppl_vae.estimators.masks import Mask, elementwise, is_masked
from ppl_vae.estimators.per_datum import Bound, PerDatumELBO
from ppl_vae.estimators.traces import Program, is_enumerated, sample_sites


class ClosedForm(NamedTuple):
    """The KL of a site in closed form, element masks taken into account.

    Args:
        q: the site of the guide.
        p: that of the model.
        kl: KL(q ‖ p), under the masks within p's events.
        entropies: H(q) under the masks within p's events and under those within q's; None where q
            and p have the same scale and masks.
    """

    q: dict
    p: dict
    kl: Tensor
    entropies: tuple[Tensor, Tensor] | None


class AnalyticKLELBO(PerDatumELBO):
    r"""The ELBO with every KL(q(z|·) ‖ p(z|·)) in closed form, or an error.

        ELBO = E_q [ log p(x|z) ] - KL(q(z|x) ‖ p(z)),

    in nats per batch; the likelihood is estimated by ``num_particles`` draws. A y enumerated in the
    guide is summed exactly, with the KL inside: Σ_y q(y|x) [ E log p(x|z,y) - KL(q(z|x,y) ‖ p(z))
    + log p(y) - log q(y|x) ]. Pyro's ``TraceMeanField_ELBO`` falls back to Monte Carlo silently
    where no KL is registered, and reads the guide's scale and mask alone.

    A closed form is used for a site when torch's ``kl_divergence`` knows the pair and when no site
    that the model's density may depend on is drawn later by the guide than the site itself: in
    q(z1|x) q(z2|z1) against p(z2) p(z1|z2), z2's KL is exact given z1, but z1's is not, since z2
    depends on z1. With scales or masks that differ, s log p - t log q is -s KL + (t - s) H(q),
    dimension by dimension where masks are within events.

    Source: Kingma & Welling 2014 (arXiv 1312.6114), equation 10; free bits: Kingma et al. 2016
    (arXiv 1606.04934), equation 15.

    Args:
        num_particles: draws for the likelihood, one vectorised dimension.
        monte_carlo: estimate the terms that have no closed form, in place of an error.
        free_bits: λ in nats per latent dimension: the gradient is that of the ELBO with
            β Σ_d max(λ, mean over the data of KL_d), so that dimensions whose KL is below λ are
            not pushed further down. The value returned is the ELBO. 0 is none.
        plate: name of the batch plate.
        max_plate_nesting: number of dimensions the program's plates take; found by running the
            program once if not given.

    Raises:
        NotImplementedError: if a term has no closed form and ``monte_carlo`` is off; if free bits
            meet a KL that is no sum over dimensions; if a site is neither reparameterised nor
            enumerated, when differentiating.
        ValueError: if a site lies outside the batch plate.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        monte_carlo: bool = False,
        free_bits: int | float = 0.0,
        plate: str = "data",
        max_plate_nesting: int | None = None,
    ) -> None:
        super().__init__(num_particles, plate=plate, max_plate_nesting=max_plate_nesting)
        self.monte_carlo = flag("AnalyticKLELBO", "monte_carlo", monte_carlo)
        self.free_bits = number("AnalyticKLELBO", "free_bits", free_bits, least=0)

    def _bound(self, program: Program) -> Bound:
        guide_trace = program.run_guide(self.num_particles)
        model_trace = program.run_model(guide_trace, self.num_particles)
        datum = Datum(self.plate, [guide_trace, model_trace], program.particle_dim)
        closed = self._closed_forms(guide_trace, model_trace)
        kl = torch.zeros(())
        for form in closed.values():
            kl = kl + _weighted(form, datum)
        log_p, _ = model_terms(model_trace, datum, guide_trace.nodes, skip=closed)
        log_q, outer, inner = guide_terms(guide_trace, datum, skip=closed)
        sampled = sampled_sites(guide_trace)
        weights = LogWeights(log_p - kl, None, log_q, outer, inner, datum, sampled)
        differentiate = torch.is_grad_enabled()
        if differentiate:
            weights.check_reparameterised()
        elbo = weights.elbo()
        surrogate = None
        if differentiate and self.free_bits > 0:
            surrogate = elbo.sum() - self._freed(closed, weights)
        return Bound(elbo, datum.scale, surrogate)

    def _closed_forms(self, guide: Trace, model: Trace) -> dict[str, ClosedForm]:
        """Return the sites whose KL has a closed form that may be used; raise for the others."""
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

    def _freed(self, closed: dict[str, ClosedForm], weights: LogWeights) -> Tensor:
        """Return Σ_d max(B λ, Σ_b KL_d) - Σ_d Σ_b KL_d, over all latents."""
        total = torch.zeros(())
        datum = weights.datum
        for q, p, _, entropies in closed.values():
            if not (_factorises(q["fn"], p["fn"]) and entropies is None):
                raise NotImplementedError(
                    f"AnalyticKLELBO: free_bits needs a KL that is a sum over latent dimensions, "
                    f"with one scale and mask on model and guide, but at site {q['name']!r} it is "
                    f"KL({_name(q['fn'])} ‖ {_name(p['fn'])})"
                )
            per_dimension = kl_divergence(q["fn"].base_dist, p["fn"].base_dist).unbind(-1)
            # λ for each datum that counts, and as much as it counts.
            floor = self.free_bits * datum.reduce(torch.ones_like(per_dimension[0]), p)
            floor = weights.mean_over_particles(floor).sum()
            for kl in per_dimension:
                kl = weights.mean_over_particles(datum.reduce(kl, p)).sum()
                total = total + (floor - kl).clamp(min=0)
        return total


def _closed_form(q: dict, model: Trace, drawn: set[str]) -> ClosedForm:
    """Return a site's KL in closed form; raise a NotImplementedError that says why not."""
    if q["name"] not in model.nodes:
        raise NotImplementedError("it is not in the model")
    p = model.nodes[q["name"]]
    for earlier in sample_sites(model):
        if earlier["name"] == p["name"]:
            break
        if earlier["is_observed"] or earlier["name"] in drawn:
            continue
        if not (is_enumerated(earlier) and _does_not_vary(p, earlier)):
            raise NotImplementedError(
                f"the model draws {earlier['name']!r} before it and the guide after it, so that "
                f"one may depend on the other"
            )
    if isinstance(getattr(q["fn"], "base_dist", q["fn"]), Delta):
        raise NotImplementedError("a point mass has no KL to a density")
    of_q, q_mask, q_count = _apart(q["fn"])
    of_p, p_mask, p_count = _apart(p["fn"])
    count = max(q_count, p_count)  # of the dimensions of an event that are masked one by one
    of_q, of_p = _split(of_q, count), _split(of_p, count)
    try:
        divergence = kl_divergence(of_q, of_p)
    except NotImplementedError:
        raise NotImplementedError(
            f"none is registered for KL({_name(of_q)} ‖ {_name(of_p)})"
        ) from None
    if count > 0:
        q_mask, p_mask = _of_dims(q_mask, count - q_count), _of_dims(p_mask, count - p_count)
    kl = _left(divergence, p_mask, count)
    alike = count == 0 or same_weight({**q, "mask": q_mask}, {**p, "mask": p_mask})
    if alike and same_weight(q, p):
        return ClosedForm(q, p, kl, None)
    try:
        entropy = of_q.entropy()
    except NotImplementedError:
        raise NotImplementedError(
            f"its scale or mask differs in the model, and {_name(of_q)} has no entropy"
        ) from None
    return ClosedForm(q, p, kl, (_left(entropy, p_mask, count), _left(entropy, q_mask, count)))


def _apart(distribution: Distribution) -> tuple[Distribution, Mask, int]:
    """Return a distribution without the masks in it, and these, as ``elementwise`` does.

    Raises:
        NotImplementedError: if a mask is on a part of it that is no factor.
    """
    if not is_masked(distribution):
        return distribution, None, 0
    bare, mask, count = elementwise(distribution)
    if is_masked(bare):
        raise NotImplementedError("there is a mask on a part of its distribution")
    return bare, mask, count


def _split(distribution: Distribution, count: int) -> Distribution:
    """Return a distribution whose first event dimensions are batch dimensions.

    Raises:
        NotImplementedError: if it is no product over these.
    """
    if count == 0:
        return distribution
    if isinstance(distribution, Independent) and distribution.reinterpreted_batch_ndims >= count:
        return distribution.to_event(-count)  # type: ignore[attr-defined]
    raise NotImplementedError(
        f"dimensions of its events are masked one by one, and {_name(distribution)} is no product "
        f"over them"
    )


def _of_dims(mask: Mask, further: int) -> Mask:
    """Return a mask with further dimensions on the right."""
    return mask[(..., *[None] * further)] if isinstance(mask, Tensor) else mask


def _left(term: Tensor, mask: Mask, count: int) -> Tensor:
    """Return the sum over masked dimensions, the last ones, of what a mask leaves."""
    return term if count == 0 else scale_and_mask(term, mask=mask).flatten(-count).sum(-1)


def _does_not_vary(site: dict, enumerated: dict) -> bool:
    """Tell from its shape that a site's density does not depend on an enumerated value."""
    dim, shape = enumerated["infer"]["_enumerate_dim"], site["fn"].batch_shape
    return len(shape) < -dim or shape[dim] == 1


def _weighted(form: ClosedForm, datum: Datum) -> Tensor:
    """Return E_q [t log q - s log p] for the scales and masks t of the guide, s of the model."""
    q, p, kl, entropies = form
    if entropies is None:
        return datum.reduce(kl, p)
    return datum.reduce(kl + entropies[0], p) - datum.reduce(entropies[1], q)


def _factorises(q: Distribution, p: Distribution) -> bool:
    return all(
        isinstance(d, Independent) and d.reinterpreted_batch_ndims == 1 and not is_masked(d)
        for d in (q, p)
    )


def _name(distribution: Distribution) -> str:
    if isinstance(distribution, Independent):
        return f"Independent({_name(distribution.base_dist)})"
    return type(distribution).__name__
