"""The continuous latents of any pair: their distributions in guide and model, per datum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from ppl_vae.distributions.mixture import Mixture, MixtureOfDiagonalNormals
from ppl_vae.estimators.masks import elementwise
from ppl_vae.estimators.traces import sample_sites
from ppl_vae.evaluation.inputs import Data, input_blocks, program_inputs
from ppl_vae.evaluation.signature import Signature
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import seeded
from ppl_vae.protocols import ModelAndGuide

BLOCK = 500
"""Data per batch when many densities of a posterior or a prior are computed for each."""


@dataclass(frozen=True)
class Latent:
    """A continuous latent of a batch of B data, at one draw from the guide.

    Args:
        q: the guide's distribution, batch shape ``(B,)``, event shape ``(D,)``.
        p: the model's, of the same shapes.
        z: the draw, shape ``(B, D)``.
        before_in_guide: the latents drawn earlier in the guide; q may depend on them.
        before_in_model: the latents drawn earlier in the model; p may depend on them.
    """

    name: str
    q: Distribution
    p: Distribution
    z: Tensor
    before_in_guide: frozenset[str]
    before_in_model: frozenset[str]

    @property
    def p_is_given(self) -> bool:
        """Whether p is fixed before z is drawn, so that KL(q ‖ p) is between distributions."""
        return self.before_in_model <= self.before_in_guide

    def check_independent(self, owner: str) -> None:
        """Raise NotImplementedError if q or p may depend on other latents."""
        if self.depends_on:
            raise NotImplementedError(
                f"{owner}: latent {self.name!r} depends on {', '.join(sorted(self.depends_on))}; "
                f"of a HierarchicalVAE, only the top layer of a top-down guide depends on x alone"
            )

    @property
    def depends_on(self) -> frozenset[str]:
        """The other latents that q or p may depend on."""
        return self.before_in_guide | self.before_in_model


def run_latents(
    owner: str,
    pair: ModelAndGuide,
    args: tuple[Tensor, ...],
    kwargs: Mapping[str, Tensor],
) -> dict[str, Latent]:
    """Run guide and model once on a batch and return the continuous latents by name.

    Unobserved labels are set to their most probable value under the guide.

    Raises:
        ValueError: if there is no continuous latent, or one is not a vector per datum; if a program
            does not accept an argument, or requires another.
        NotImplementedError: if a latent is in one of the programs alone, or a discrete one comes
            after a continuous one.
    """
    labels: dict[str, Tensor] = {}
    Signature(owner, pair.model, pair.guide).check(args, kwargs)
    while True:
        guide = poutine.trace(poutine.condition(pair.guide, data=labels)).get_trace(*args, **kwargs)
        drawn = [site for site in sample_sites(guide) if not site["is_observed"]]
        discrete = [site for site in drawn if site["fn"].has_enumerate_support]
        if not discrete:
            break
        if drawn[0] is not discrete[0]:
            raise NotImplementedError(
                f"{owner}: the guide must draw discrete sites first, got "
                f"{discrete[0]['name']!r} after {drawn[0]['name']!r}; or give the labels"
            )
        labels[discrete[0]["name"]] = mode_of(elementwise(discrete[0]["fn"])[0])
    if not drawn:
        raise ValueError(f"{owner}: the guide draws no continuous latent")
    given_labels = poutine.condition(pair.model, data=labels)
    model = poutine.trace(poutine.replay(given_labels, trace=guide)).get_trace(*args, **kwargs)
    in_guide = [site["name"] for site in drawn]
    in_model = [site["name"] for site in sample_sites(model) if not site["is_observed"]]
    if set(in_guide) != set(in_model):
        raise NotImplementedError(
            f"{owner}: model and guide must have the same latents, got {', '.join(in_model)} and "
            f"{', '.join(in_guide)}"
        )
    latents = {}
    for site in drawn:
        name = site["name"]
        # Without masks, which say what part of a density the program counts.
        q, p = (elementwise(trace.nodes[name]["fn"])[0] for trace in (guide, model))
        for which, d in (("guide", q), ("model", p)):
            if d.batch_shape != (len(args[0]),) or len(d.event_shape) != 1:
                raise ValueError(
                    f"{owner}: latent {name!r} must have batch shape ({len(args[0])},) and event "
                    f"shape (latent_dim,), got {tuple(d.batch_shape)} and {tuple(d.event_shape)} "
                    f"in the {which}"
                )
        if q.event_shape != p.event_shape:
            raise ValueError(
                f"{owner}: latent {name!r} has {q.event_shape[0]} dimensions in the guide and "
                f"{p.event_shape[0]} in the model; give prior and posterior the same latent_dim"
            )
        before = (frozenset(names[: names.index(name)]) for names in (in_guide, in_model))
        latents[name] = Latent(name, q, p, site["value"], *before)
    return latents


def run_latent(
    owner: str,
    pair: ModelAndGuide,
    args: tuple[Tensor, ...],
    kwargs: Mapping[str, Tensor],
    site: str | None,
) -> Latent:
    """Return the latent of that name from :func:`run_latents`, by default the only one."""
    latents = run_latents(owner, pair, args, kwargs)
    if site is None and len(latents) == 1:
        return next(iter(latents.values()))
    if isinstance(site, str) and site in latents:
        return latents[site]
    names = ", ".join(map(repr, latents))
    came = "there are several" if site is None else f"got site={site!r}"
    raise ValueError(f"{owner}: site must name one of the latents {names}, but {came}")


@torch.no_grad()
def draw_latents(
    owner: str, pair: ModelAndGuide, data: Data, num_draws: int, *, seed: int
) -> dict[str, Tensor]:
    """Return draws of the guide's continuous latents by name, ``(num_draws, N, D)`` on the CPU.

    A label that the guide infers is drawn with them, anew for each.
    """
    inputs = program_inputs(owner, pair, data)
    found: dict[str, list[Tensor]] = {}
    with evaluating(pair.model, pair.guide), seeded(owner, seed):
        for args, kwargs in input_blocks(inputs, BLOCK):
            draws: dict[str, list[Tensor]] = {}
            for _ in range(num_draws):
                trace = poutine.trace(pair.guide).get_trace(*args, **kwargs)
                for site in sample_sites(trace):
                    if not (site["is_observed"] or site["fn"].has_enumerate_support):
                        draws.setdefault(site["name"], []).append(site["value"].cpu())
            for name, values in draws.items():
                found.setdefault(name, []).append(torch.stack(values))
    return {name: torch.cat(parts, 1) for name, parts in sorted(found.items())}


def mode_of(d: Distribution) -> Tensor:
    """Return the most probable value of each of a batch of discrete distributions."""
    values = d.enumerate_support()
    index = d.log_prob(values).argmax(0)
    return values[index, torch.arange(len(index), device=index.device)]


@dataclass(frozen=True, eq=False)
class MixtureMarginals:
    """Σ_k w_k p_k(z_d) for each d, from logits ``(..., K)`` and marginals ``(..., K, D)``."""

    logits: Tensor
    components: Distribution | MixtureMarginals

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of each dimension, ``(..., D)``."""
        log_prob = self.components.log_prob(value.unsqueeze(-2))
        return (self.logits.unsqueeze(-1) + log_prob).logsumexp(-2)


def marginals(d: Distribution) -> Distribution | MixtureMarginals | None:
    """Return the one-dimensional marginals of a distribution over vectors, None if unknown.

    Their ``log_prob`` maps values ``(..., D)`` to log-densities ``(..., D)``. Normal marginals are
    a ``Normal``.
    """
    if factorises(d):
        assert isinstance(d, Independent)
        return d.base_dist
    if isinstance(d, (MultivariateNormal, LowRankMultivariateNormal)):
        return Normal(d.loc, d.variance.sqrt())
    if isinstance(d, MixtureOfDiagonalNormals):
        return MixtureMarginals(d.logits, Normal(d.loc, d.scale))
    if isinstance(d, (MixtureSameFamily, Mixture)):
        components = marginals(d.component_distribution)
        if components is not None:
            return MixtureMarginals(d.mixture_distribution.logits, components)
    return None


def factorises(d: Distribution) -> bool:
    """Return whether a distribution over vectors is declared as a product over dimensions."""
    return (
        isinstance(d, Independent)
        and d.reinterpreted_batch_ndims == 1
        and not d.base_dist.event_shape
    )


def no_marginals(d: Distribution, role: str) -> str | None:
    """Return why the marginals of a posterior or prior are unknown, None if they are known."""
    if marginals(d) is not None:
        return None
    return f"the marginals of a {type(d).__name__} {role} have no closed form"


def check_finite(owner: str, of: str, log_prob: Tensor) -> None:
    """Raise ValueError if any log-densities are NaN or infinite."""
    bad = int((~log_prob.isfinite()).sum())
    if bad:
        raise ValueError(
            f"{owner}: {of} is NaN or infinite at {bad} of {log_prob.numel()} draws; look at the "
            f"networks' outputs, and at the support of the prior"
        )
