"""Draws from the posterior of each datum: those of the guide, as they are or refined."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.errors import positive_int
from ppl_vae.estimators.log_weights import weighted_particles
from ppl_vae.estimators.traces import sample_sites
from ppl_vae.evaluation.chains import FEWEST_DRAWS, mixing, run_chains
from ppl_vae.evaluation.gradients import gradients_possible
from ppl_vae.evaluation.hmc import remedies
from ppl_vae.evaluation.inputs import Array, Data, program_inputs, progress_bar
from ppl_vae.evaluation.local_posterior import PARTICLES, LocalPosterior, check_local
from ppl_vae.evaluation.pareto import MIN_SAMPLES, NOT_COMPUTED, UNRELIABLE, smoothed
from ppl_vae.evaluation.refinement import (
    HamiltonianMonteCarlo,
    ImportanceResampling,
    LocalOptimisation,
    Refinement,
    refinement_of,
)
from ppl_vae.evaluation.results import Result
from ppl_vae.evaluation.traced_batch import TracedBatch, row_limit, traced_batches
from ppl_vae.evaluation.weight_statistics import check_log_weights
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import seeded
from ppl_vae.protocols import ModelAndGuide

AT_ONCE = 100
"""Draws of a datum at a time, if there are enough data; x is encoded once for so many."""

NOT_MIXED = 1.05
"""Above this split R-hat chains have not reached the same distribution."""


@dataclass(frozen=True, eq=False, repr=False)
class PosteriorDraws(Result):
    """Draws of the latents of N data, and how far to trust them.

    Args:
        draws: latent site -> values, shape ``(num_samples, N, *event)``, one chain after the other.
        refined: for each datum whether its draws are refined ones; where they are not, or were not
            to be, they are plain draws of the guide.
        ess: effective sample size, shape ``(N,)``: of importance weights, from 1 to their number,
            or of chains, of what moves most slowly: a dimension, or its squared deviation.
        pareto_k: the shape k̂ of the weights' tail, shape ``(N,)``; None of chains, NaN with fewer
            than 25 draws.
        r_hat: split R-hat of what mixes worst, likewise, shape ``(N,)``; None without chains, NaN
            where a chain does not move.
        acceptance: mean probability of accepting a transition, shape ``(N,)``; None without chains.
        refinement: what refined them; None for plain draws of the guide.
    """

    draws: dict[str, Tensor]
    refined: Bool[Tensor, " data"]
    ess: Float[Tensor, " data"]
    pareto_k: Float[Tensor, " data"] | None
    r_hat: Float[Tensor, " data"] | None
    acceptance: Float[Tensor, " data"] | None
    refinement: Refinement | None

    @property
    def num_chains(self) -> int:
        """The number of chains, 1 for independent draws."""
        hmc = isinstance(self.refinement, HamiltonianMonteCarlo)
        return self.refinement.num_chains if hmc else 1  # type: ignore[union-attr]

    def chains(self, site: str) -> Shaped[Tensor, "chains draws data ..."]:
        """Return the draws of a site by chain."""
        return self.draws[site].unflatten(0, (self.num_chains, -1))

    @property
    def unreliable(self) -> Bool[Tensor, " data"]:
        """Whether k̂ > 0.7 or R-hat > 1.05, or neither could be computed, for each datum."""
        if self.r_hat is not None:
            return ~(self.r_hat <= NOT_MIXED)
        assert self.pareto_k is not None
        return ~(self.pareto_k <= UNRELIABLE)

    def _rows(self) -> dict[str, object]:
        shapes = {name: tuple(z.shape[2:]) for name, z in self.draws.items()}
        sites = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        num_samples, num_data = next(iter(self.draws.values())).shape[:2]
        chains = f" in {self.num_chains} chains" if self.r_hat is not None else ""
        rows: dict[str, object] = {
            "draws": f"{num_samples}{chains} for {num_data} data of {sites}",
            "refined": f"{int(self.refined.sum())} data, by {self.refinement}",
            "median ESS": f"{self.ess.nanmedian():.0f}",
        }
        if self.refinement is None:
            rows["refined"] = "no data: draws of the guide"
        if self.r_hat is not None and self.acceptance is not None:
            rows["R-hat"] = f"> {NOT_MIXED} for {int(self.unreliable.sum())} data"
            rows["acceptance"] = f"{self.acceptance.mean():.2f}"
        elif self.pareto_k is not None and self.pareto_k.isnan().any():
            rows["k̂"] = NOT_COMPUTED
        else:
            rows["k̂"] = f"> {UNRELIABLE} for {int(self.unreliable.sum())} data"
        return rows


def posterior_draws(
    pair: ModelAndGuide,
    x: Data,
    *context: Array,
    mask: Array | None = None,
    num_samples: int = 1000,
    refine: Refinement | str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> PosteriorDraws:
    r"""Draw from the posterior p(z | x) of each datum, as well as the refinement allows.

    - ``None``: draws of the guide q(z | x) as they are. ``ess`` and ``pareto_k`` of the weights
      w_s = p(x, z_s) / q(z_s | x) say how good they are as draws from p(z | x).
    - ``"importance"`` (:class:`ImportanceResampling`): draws of the guide, resampled with
      replacement with Pareto-smoothed weights. **Gated**: a datum with k̂ > 0.7, or without k̂,
      keeps its unweighted draws, and ``refined`` is False there. A few weights may carry all of
      the mass then: without the gate their values return many times, in intervals that cover less
      than those of q (in few dimensions weights may help even there).
    - ``"optimise"`` (:class:`LocalOptimisation`): draws of a posterior optimised for each datum
      alone, of the guide's family and started at q(z | x) (semi-amortised inference): takes away
      the amortisation gap of :func:`ppl_vae.evaluation.inference_gap`, not the approximation gap.
      ``ess`` and ``pareto_k`` are of that posterior.
    - ``"hmc"`` (:class:`HamiltonianMonteCarlo`): chains from draws of the guide that leave
      p(z | x) invariant, step sizes tuned per datum during the warm-up. Exact in the limit, but a
      mode that no chain starts in may never be found, and ``r_hat`` cannot tell.

    Names stand for objects with default settings, ``refine=HamiltonianMonteCarlo(warm_up=500)``.

    Labels that the guide infers are drawn with the others, a datum's given label being each of its
    draws, except by chains: these sum enumerated latents out of p(x, z) and draw the continuous
    ones from their marginal posterior. Latents that the model alone enumerates are always summed
    out.

    Source: importance resampling, Rubin 1987; weights, Vehtari et al. 2024 (arXiv 1507.02646),
    section 3; Kim et al. 2018, "Semi-amortized variational autoencoders" (arXiv 1802.02550); Neal
    2011 (arXiv 1206.1901); chains started at draws of a guide, Hoffman 2017, "Learning deep latent
    Gaussian models with Markov chain Monte Carlo". R-hat and effective sample sizes of chains are
    those of :mod:`pyro.ops.stats`.

    Args:
        pair: any model/guide pair; to optimise, with one continuous latent and a posterior that is
            a :class:`ppl_vae.conditional.NeuralConditional`; for chains, latents that are real
            vectors, or enumerated.
        x, context, mask: the data, as in :func:`ppl_vae.evaluation.elbo_terms`.
        num_samples: draws per datum; of chains a multiple of their number, at least 4 in each.
        refine: None, ``"importance"``, ``"optimise"``, ``"hmc"``, or one of the objects above.
        seed: of the draws; the global random state is unchanged.
        progress: show a progress bar.

    Warns:
        UserWarning: with the number of data that importance resampling left as they were; with that
            of data whose R-hat is above 1.05, or that have a chain that does not move.

    Raises:
        TypeError, ValueError: if an argument is wrong, x is incompatible with the pair, or a weight
            is NaN or infinite (the message names the first such datum).
        NotImplementedError: to optimise several continuous latents; for chains of a latent that is
            discrete and not enumerated, or constrained. ``"importance"`` takes any.

    Example:
        >>> from ppl_vae.testing import LinearGaussian
        >>> pair, x = LinearGaussian(data_dim=5, latent_dim=2), torch.zeros(3, 5).double()
        >>> draws = posterior_draws(pair, x, refine="importance")
        >>> draws.draws["z"].shape, int(draws.refined.sum())
        (torch.Size([1000, 3, 2]), 3)
    """
    owner = "posterior_draws"
    num_samples = positive_int(owner, "num_samples", num_samples)
    refinement = refinement_of(owner, refine)
    per_datum, rows = num_samples, min(num_samples, AT_ONCE)
    if isinstance(refinement, HamiltonianMonteCarlo):
        _check_draws(owner, num_samples, refinement)
        rows = refinement.num_chains
        per_datum = refinement.warm_up + num_samples // rows
    elif isinstance(refinement, LocalOptimisation):
        per_datum, rows = refinement.steps, PARTICLES
    inputs = program_inputs(owner, pair, x, context, mask)
    found: list[PosteriorDraws] = []
    observed: list[dict[str, Tensor]] = []
    bar = progress_bar(owner, "posterior draws", len(inputs) * per_datum, progress, "step")
    needs_gradients = isinstance(refinement, (HamiltonianMonteCarlo, LocalOptimisation))
    mode = gradients_possible(owner, pair) if needs_gradients else torch.no_grad()
    with bar, mode, evaluating(pair.model, pair.guide), seeded(owner, seed):
        for batch in traced_batches(owner, pair, inputs, rows):
            if isinstance(refinement, HamiltonianMonteCarlo):
                found.append(_of_chains(owner, batch, num_samples, refinement, bar))
            elif isinstance(refinement, LocalOptimisation):
                found.append(_optimised(owner, pair, batch, num_samples, refinement, bar))
            else:
                found.append(_of_guide(owner, batch, num_samples, refinement))
                bar.update(len(batch) * num_samples)
            observed.append(_observed(batch, num_samples))
    result = _concatenated(found, observed)
    _warn(owner, result, remedies(batch, "take more num_particles", "refine='hmc'", "posterior"))
    return result


def _of_guide(
    owner: str, batch: TracedBatch, num_samples: int, refinement: Refinement | None
) -> PosteriorDraws:
    """Return draws of the guide, resampled if they are to be."""
    number = num_samples
    if isinstance(refinement, ImportanceResampling):
        number = max(num_samples, refinement.num_particles)
    log_w, latents = _weighed(owner, batch, batch.guide, number)
    if not isinstance(refinement, ImportanceResampling):
        return _plain(log_w, latents, refinement, batch.is_point_mass)
    size = refinement.num_particles
    weights, k = smoothed(log_w[:size].double(), eps=torch.finfo(log_w.dtype).eps)
    ess = _ess(weights)
    if batch.is_point_mass:
        k, ess = torch.full_like(k, math.inf), torch.ones_like(ess)
    refined = k <= UNRELIABLE
    chosen = torch.distributions.Categorical(logits=weights.T).sample((num_samples,))
    own = torch.arange(num_samples, device=chosen.device)[:, None]
    draws = _chosen(latents, torch.where(refined, chosen, own))
    return PosteriorDraws(
        draws, refined, ess.to(log_w.dtype), k.to(log_w.dtype), None, None, refinement
    )


def _optimised(
    owner: str,
    pair: ModelAndGuide,
    batch: TracedBatch,
    num_samples: int,
    settings: LocalOptimisation,
    bar: tqdm,
) -> PosteriorDraws:
    """Return draws of the optimised posteriors."""
    discrete = [
        site["name"]
        for site in sample_sites(batch.guide_trace)
        if not site["is_observed"] and site["fn"].support.is_discrete
    ]
    if discrete:
        raise NotImplementedError(
            f"{owner}: refine='optimise' needs continuous latents, but the guide infers "
            f"{discrete[0]!r}; give the labels, or use 'importance' or 'hmc'"
        )
    with torch.enable_grad():
        check_local(owner, pair, batch)
        search = LocalPosterior(owner, pair.guide, batch)
        guide = search.optimised(settings.steps, settings.learning_rate, bar)
    return _plain(*_weighed(owner, batch, guide, num_samples), settings, is_point_mass=False)


def _of_chains(
    owner: str, batch: TracedBatch, num_samples: int, settings: HamiltonianMonteCarlo, bar: tqdm
) -> PosteriorDraws:
    """Return the draws of all chains."""
    found = run_chains(owner, batch, num_samples // settings.num_chains, settings, bar)
    values = {name: _data_first(batch, name, z, 2) for name, z in found.values.items()}
    r_hats, sizes = zip(*map(mixing, values.values()), strict=True)
    # maximum and minimum keep NaN
    r_hat, ess = torch.stack(r_hats).amax(0), torch.stack(sizes).amin(0)
    dtype = found.acceptance.dtype
    return PosteriorDraws(
        {name: z.flatten(0, 1) for name, z in values.items()},
        torch.ones_like(r_hat, dtype=torch.bool),
        ess.to(dtype),
        None,
        r_hat.to(dtype),
        found.acceptance,
        settings,
    )


def _plain(
    log_w: Tensor,
    latents: dict[str, Tensor],
    refinement: Refinement | None,
    is_point_mass: bool,
) -> PosteriorDraws:
    """Return draws as they are, with the diagnosis of their weights."""
    weights = log_w.double()
    _, k = smoothed(weights, eps=torch.finfo(log_w.dtype).eps)
    ess = _ess(weights)
    if is_point_mass:
        k, ess = torch.full_like(k, math.inf), torch.ones_like(ess)
    refined = torch.full_like(k, refinement is not None, dtype=torch.bool)
    dtype = log_w.dtype
    return PosteriorDraws(latents, refined, ess.to(dtype), k.to(dtype), None, None, refinement)


def _weighed(
    owner: str, batch: TracedBatch, guide: Callable, number: int
) -> tuple[Float[Tensor, "draws data"], dict[str, Tensor]]:
    """Draw from a guide, and return log weights and values by site, some at a time."""
    at_once = max(1, row_limit(batch.args[0]) // (len(batch) * batch.combinations))
    parts = []
    for start in range(0, number, at_once):
        parts.append(
            weighted_particles(
                batch.model,
                guide,
                *batch.args,
                num_particles=min(at_once, number - start),
                max_plate_nesting=-batch.particle_dim - 1,
                **batch.kwargs,
            )
        )
    log_w = torch.cat([part.log_weights for part in parts])
    check_log_weights(owner, log_w, batch.start, zero_too=True)
    latents = {
        name: _data_first(batch, name, torch.cat([part.latents[name] for part in parts]), 1)
        for name in parts[0].latents
    }
    return log_w, latents


def _data_first(batch: TracedBatch, name: str, values: Tensor, leading: int) -> Tensor:
    """Move the data's dimension of a site's values to the left, after the leading ones."""
    event_dim = batch.model_trace.nodes[name]["fn"].event_dim
    return values.movedim(batch.plate.dim - event_dim, leading)


def _observed(batch: TracedBatch, number: int) -> dict[str, Tensor]:
    """Return what the model observes, as equal draws: in another batch it may be a latent."""
    found = {}
    for site in sample_sites(batch.model_trace):
        if site["is_observed"]:
            shape = site["fn"].shape()
            missing = -batch.particle_dim - 1 + site["fn"].event_dim - len(shape)
            value = site["value"].expand(number, *[1] * missing, *shape)
            found[site["name"]] = _data_first(batch, site["name"], value, 1)
    return found


def _chosen(latents: dict[str, Tensor], index: Int[Tensor, "draws data"]) -> dict[str, Tensor]:
    data = torch.arange(index.shape[1], device=index.device)
    return {name: value[index, data] for name, value in latents.items()}


def _ess(log_w: Float[Tensor, "draws data"]) -> Float[Tensor, " data"]:
    """Return (Σ w)² / Σ w² (Kong 1992)."""
    return 1 / log_w.softmax(0).square().sum(0)


def _check_draws(owner: str, num_samples: int, settings: HamiltonianMonteCarlo) -> None:
    chains = settings.num_chains
    if num_samples % chains or num_samples < FEWEST_DRAWS * chains:
        raise ValueError(
            f"{owner}: num_samples must be a multiple of num_chains={chains}, at least "
            f"{FEWEST_DRAWS} for each, got {num_samples}"
        )


def _concatenated(parts: list[PosteriorDraws], observed: list[dict[str, Tensor]]) -> PosteriorDraws:
    """Return the draws of all data: of what is latent in any batch, such as a label."""
    first = parts[0]
    values = [given | part.draws for part, given in zip(parts, observed, strict=True)]
    names = dict.fromkeys(name for part in parts for name in part.draws)

    def all_of(name: str) -> Tensor | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else torch.cat(found)

    columns = ("refined", "ess", "pareto_k", "r_hat", "acceptance")
    return PosteriorDraws(
        {name: torch.cat([of_part[name] for of_part in values], 1) for name in names},
        **{name: all_of(name) for name in columns},  # type: ignore[arg-type]
        refinement=first.refinement,
    )


def _warn(owner: str, result: PosteriorDraws, advice: str) -> None:
    number, count = int(result.unreliable.sum()), len(result.unreliable)
    if not number:
        return
    if isinstance(result.refinement, ImportanceResampling):
        assert result.pareto_k is not None
        why = f"Pareto k̂ > {UNRELIABLE}"
        if result.pareto_k.isnan().any():
            why = f"Pareto k̂ was not computed, as it needs num_particles={MIN_SAMPLES},"
        warnings.warn(
            f"{owner}: {why} for {number} of {count} data: their draws are those of the guide, not "
            f"resampled (refined is False); {advice}",
            stacklevel=3,
        )
    elif isinstance(result.refinement, HamiltonianMonteCarlo):
        assert result.r_hat is not None
        worst = result.r_hat.masked_fill(result.r_hat.isnan(), math.inf).max()
        warnings.warn(
            f"{owner}: R-hat > {NOT_MIXED} for {number} of {count} data (up to {worst:.3g}): their "
            f"chains have not mixed; take a longer warm_up and more num_samples",
            stacklevel=3,
        )
