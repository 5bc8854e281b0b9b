"""Gradients at sites that are neither reparameterised nor enumerated.

With L a bound on log p(x) of P particles z_k ~ q_φ,

    ∂ E_q L / ∂φ = E_q [ Σ_k (L - L_k) ∂log q(z_k) + ∂L ],

for any baseline L_k that does not depend on z_k (:meth:`Objective.gains`). The densities in L and
paths through other sites make up ∂L. A Bernoulli site may instead be drawn in antithetic pairs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from pyro.distributions import Bernoulli, Independent
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.estimators.log_weights import LogWeights
from ppl_vae.estimators.objective import Objective
from ppl_vae.estimators.traces import Runner, total
from ppl_vae.registration import IgnoresParameters

Score = Literal["vimco", "loo", "disarm"]
"""How the gradient at such sites is estimated."""
SCORES: tuple[str, ...] = get_args(Score)

_PAIRS = "_antithetic"
"""Marks, in ``infer``, sites that were drawn in pairs, by their distribution for one particle."""


class AntitheticDraws(IgnoresParameters, Messenger):
    """Draw Bernoulli sites of a guide in pairs, from u and 1 - u, in two halves of the particles.

    A site that depends on another sampled one is drawn independently: the two of a pair would have
    different logits.
    """

    def __init__(self, num_particles: int, dim: int) -> None:
        super().__init__()
        self._num_particles = num_particles
        self._dim = dim

    def _pyro_sample(self, msg: dict) -> None:
        fn, dim = msg["fn"], self._dim
        if msg["done"] or msg["is_observed"] or msg["infer"].get("enumerate"):
            return
        if type(_base(fn)) is not Bernoulli:
            return
        shape = [1] * (-dim - len(fn.batch_shape)) + list(fn.batch_shape)
        if shape[dim] != 1:
            return
        shape[dim] = self._num_particles // 2
        probability = _base(fn).probs.detach()
        uniform = torch.rand(
            (*shape, *fn.event_shape), dtype=probability.dtype, device=probability.device
        )
        pair = uniform < probability, 1 - uniform < probability
        msg["value"] = torch.cat(pair, dim - fn.event_dim).to(probability.dtype)
        shape[dim] = self._num_particles
        msg["fn"], msg["done"] = fn.expand(shape), True
        msg["infer"] = {**msg["infer"], _PAIRS: fn}


def with_pairs(runner: Runner, num_particles: int) -> Runner:
    """Return a runner whose guide draws Bernoulli sites in pairs."""
    return replace(runner, guide=AntitheticDraws(num_particles, runner.particle_dim)(runner.guide))


def has_scores(weights: LogWeights) -> bool:
    """Return whether the guide samples a site that is not reparameterised."""
    return bool(_score_sites(weights))


def score_term(
    weights: LogWeights,
    objective: Objective,
    gradient: str,
    log_w: Tensor,
    without: Collection[str] = (),
) -> Tensor:
    """Return the scalar that adds the gradient of such sites to that of the differentiated bound.

    Args:
        weights: of the particles; for ``"disarm"`` of pairs, in two halves.
        objective: the bound whose gradient is estimated.
        gradient: ``"vimco"``, ``"loo"`` or ``"disarm"``.
        log_w: the weights, ``(*outer, particles, *plates)``.
        without: names of the sites whose log q is not in log w.
    """
    dim, plate, expected = weights.plate.particle_dim, weights.plate, weights.expected
    sites = _score_sites(weights)
    paired = [site for site in sites if site["infer"].get(_PAIRS)]
    terms = []
    if len(paired) < len(sites):
        gains = objective.gains(log_w, dim, geometric=gradient == "vimco")
        log_q = total(plate.drawn_log_prob(s) for s in sites if not s["infer"].get(_PAIRS))
        terms.append(expected(gains * log_q))
    if paired:
        swapped = log_w.roll(log_w.shape[dim] // 2, dim)
        first, second = objective.gains_of_swaps(log_w, swapped, dim).chunk(2, dim)
        difference = (first - second) / 2
        terms += [expected(_antithetic(site, difference, weights)) for site in paired]
    # E ∂log q = 0: so much of what log q in L adds is noise.
    own = [plate.log_prob(site) for site in sites if site["name"] not in without]
    if own:
        terms.append(expected(total(own)) / log_w.shape[dim])
    return total(terms)


def _score_sites(weights: LogWeights) -> list[dict]:
    return [site for site in weights.sampled if not site["fn"].has_rsample]


def _antithetic(site: dict, difference: Tensor, weights: LogWeights) -> Tensor:
    """Return a term whose derivative is DisARM's (Dong et al. 2020, arXiv 2006.10680, equation 6).

    With f the bound as a function of the site's value b, b̃ its antithetic one and α the logits,
    (f(b) - f(b̃)) / 2 · (b - b̃) σ(|α|) for each entry. The bound is the mean of two halves, and
    ``difference`` of f is averaged over both.
    """
    plate, fn = weights.plate, site["infer"][_PAIRS]
    logits, count = _base(fn).logits, fn.event_dim
    b, other = site["value"].chunk(2, plate.particle_dim - count)
    slope = (b - other) * logits.detach().abs().sigmoid()
    term = (slope * logits).flatten(-count).sum(-1) if count else slope * logits
    return difference * plate.summed_inside(term, site)


def _base(fn: Any) -> Any:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn
