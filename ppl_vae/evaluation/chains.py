"""Chains of Hamiltonian Monte Carlo that draw from the posterior of each datum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import torch
from jaxtyping import Float
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.evaluation.hmc import Joint, State, Values, transition
from ppl_vae.evaluation.refinement import HamiltonianMonteCarlo
from ppl_vae.evaluation.traced_batch import TracedBatch, row_limit
from ppl_vae.evaluation.weight_statistics import check_log_weights

TARGET_ACCEPTANCE = 0.8
"""The acceptance that step sizes are tuned for, as in Pyro's own HMC."""

FEWEST_DRAWS = 4
"""The fewest draws of a chain of which halves can be compared."""

_FIRST_STEP = 0.3
_RATE, _DECAY = 1.0, 0.6
_DRAWS_FOR_SCALES = 100
_TERMS_AT_ONCE = 5_000_000


@dataclass(frozen=True, eq=False)
class Chains:
    """Draws of the latents by site, and the mean acceptance.

    Args:
        values: shape ``(chains, draws, *plates, *event)`` per site.
        acceptance: mean probability of accepting a transition after the warm-up.
    """

    values: Values
    acceptance: Float[Tensor, " data"]


def run_chains(
    owner: str, batch: TracedBatch, draws: int, settings: HamiltonianMonteCarlo, bar: tqdm
) -> Chains:
    """Run chains from draws of q(z | x) that leave p(z | x) invariant.

    During the warm-up the logarithm of each datum's step size follows its chains' acceptance by
    Robbins and Monro's rule, with gains t^-0.6; its mean over the second half is kept. Steps are in
    units of the standard deviations of q(z | x), and their number differs between transitions.
    """
    for name in batch.latents:
        if name not in batch.guide_trace.nodes:
            raise ValueError(
                f"{owner}: latent site {name!r} is not in the guide, whose draws the chains start "
                f"from; sample it there"
            )
    # The density of the start is not needed: that of the prior costs nothing more.
    start, joint = Joint(owner, batch, "posterior"), Joint(owner, batch, "prior")
    at_once = max(2, row_limit(batch.args[0]) // (len(batch) * batch.combinations))
    scales = _scales(start, min(_DRAWS_FOR_SCALES, at_once))
    first = start.sample(settings.num_chains)
    state = State.at(joint, first)
    check_log_weights(owner, state.log_joint, batch.start)
    log_step = torch.full_like(state.log_joint[:1], math.log(_FIRST_STEP))
    kept, accepted = torch.zeros_like(log_step), torch.zeros_like(log_step[0])
    found: list[Values] = []
    half = settings.warm_up // 2
    with pyro.validation_enabled(False):  # trajectories that diverge are rejected
        for turn in range(settings.warm_up + draws):
            if turn == settings.warm_up:
                log_step = kept / (settings.warm_up - half)
            length = int(torch.randint(1, 2 * settings.leapfrog_steps, ()))
            state, probability = transition(joint, state, 1.0, log_step.exp(), length, scales)
            if turn < settings.warm_up:
                gain = _RATE / (turn + 1) ** _DECAY
                error = probability.mean(0, keepdim=True) - TARGET_ACCEPTANCE
                log_step = log_step + gain * error
                kept = kept + log_step if turn >= half else kept
            else:
                found.append(state.values)
                accepted = accepted + probability.mean(0)
            bar.update(len(batch))
    values = {name: torch.stack([step[name] for step in found], 1) for name in state.values}
    return Chains(values, accepted / draws)


def mixing(
    values: Float[Tensor, "chains draws data ..."],
) -> tuple[Float[Tensor, " data"], Float[Tensor, " data"]]:
    """Return the largest split R-hat and the smallest effective sample size of each datum.

    Over dimensions and their squared deviations from the mean: chains that go round a mode at
    constant energy agree on the mean long before they do on the scale. Both are Pyro's, and NaN
    where a chain does not move at all. The effective size of S draws is at most S log10 S, as in
    Stan: Pyro's is negative where short chains alternate.

    Source: Vehtari et al. 2021, "Rank-normalization, folding, and localization: an improved R-hat"
    (arXiv 1903.08008), section 3, for split R-hat and effective sizes.
    """
    columns = values.double().flatten(2)
    number = columns[..., 0].numel()
    most = number * math.log10(number)
    squares = (columns - columns.mean((0, 1))).square()
    at_once = max(1, _TERMS_AT_ONCE // values.shape[1] ** 2)
    r_hats, sizes = [], []
    for part, other in zip(columns.split(at_once, 2), squares.split(at_once, 2), strict=True):
        both = torch.stack([part, other], -1)
        r_hats.append(split_gelman_rubin(both).amax(-1))
        size = effective_sample_size(both)
        sizes.append(torch.where(size < 0, most, size).clamp(max=most).amin(-1))
    shape = (values.shape[2], -1)
    still = (columns == columns[:, :1]).all(1).any(0).reshape(shape).any(1)
    r_hat, ess = torch.cat(r_hats).reshape(shape).amax(1), torch.cat(sizes).reshape(shape).amin(1)
    return r_hat.masked_fill(still, math.nan), ess.masked_fill(still, math.nan)


def _scales(start: Joint, number: int) -> Values:
    """Return the standard deviations of q(z | x), estimated from draws."""
    tiny = torch.finfo(torch.get_default_dtype()).tiny
    return {
        name: z.std(0, keepdim=True).clamp(min=tiny) for name, z in start.sample(number).items()
    }
