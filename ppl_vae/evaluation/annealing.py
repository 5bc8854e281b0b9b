"""log p(x) by annealed importance sampling, with bounds from both sides on simulated data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyro
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.ascii import for_stdout
from ppl_vae.errors import describe, positive_int
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.gradients import gradients_possible
from ppl_vae.evaluation.hmc import Joint, Start, State, StepSizes, transition
from ppl_vae.evaluation.inputs import (
    Array,
    Data,
    dequantised_levels_of,
    program_inputs,
    progress_bar,
)
from ppl_vae.evaluation.likelihood import LogEvidence
from ppl_vae.evaluation.results import Result
from ppl_vae.evaluation.simulated import simulated
from ppl_vae.evaluation.traced_batch import traced_batches
from ppl_vae.evaluation.weight_statistics import WeightStatistics, check_log_weights
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import seeded
from ppl_vae.protocols import ModelAndGuide, check_pair

TARGET_ACCEPTANCE = 0.65
"""The acceptance that step sizes are tuned for (Neal 2011, section 4.4)."""

_STEEPNESS = 4.0
_FIRST_STEP = 0.1
_WARM_UP, _WARM_UP_RATE = 40, 1.0
_RATE = 0.3
_FEWEST_TUNED = 100


@dataclass(frozen=True, eq=False, repr=False)
class AnnealedLikelihood(LogEvidence):
    """Annealed importance sampling estimates of log p(x), whose draws are chains.

    Args:
        acceptance: mean probability of accepting a transition; NaN if there was none.
    """

    acceptance: Float[Tensor, " data"]
    _method = "annealed; "

    def _rows(self) -> dict[str, object]:
        return {
            "-log p(x)": f"{self.nll} nats per datum over {len(self.log_px)} data",
            "median ESS": f"{self.ess.median():.1f} chains",
            "acceptance": f"{self.acceptance.mean():.2f}",
        }


@dataclass(frozen=True, eq=False, repr=False)
class BidirectionalBounds(Result):
    """Stochastic bounds on log p(x) of simulated data, of shape ``(N,)``, in nats.

    Args:
        lower: below log p(x) in expectation.
        upper: above log p(x) in expectation.
        x: the simulated data, shape ``(N, *event)``.
    """

    lower: Float[Tensor, " data"]
    upper: Float[Tensor, " data"]
    x: Tensor

    @property
    def gap(self) -> Float[Tensor, " data"]:
        """Upper minus lower: in expectation at least the error of either."""
        return self.upper - self.lower

    def _rows(self) -> dict[str, object]:
        lower, upper, gap = map(Estimate.of, (self.lower, self.upper, self.gap))
        return {
            "log p(x) at least": f"{lower} nats per datum",
            "log p(x) at most": upper,
            "gap": f"{gap} over {len(self.gap)} simulated data",
        }

    def __str__(self) -> str:
        lower, upper, gap = map(Estimate.of, (self.lower, self.upper, self.gap))
        return for_stdout(f"{lower} ≤ log p(x) ≤ {upper} nats per datum, gap {gap}")


def annealed_importance_sampling(
    pair: ModelAndGuide,
    x: Data,
    *context: Array,
    mask: Array | None = None,
    num_chains: int = 16,
    num_temperatures: int = 1000,
    leapfrog_steps: int = 10,
    start: Start = "prior",
    seed: int = 0,
    progress: bool = False,
) -> AnnealedLikelihood:
    r"""Estimate log p(x) of each datum by annealed importance sampling.

    Chains go from f_0, the prior p(z) or the guide q(z | x), to p(x, z) along the geometric path

        f_t(z) = f_0(z)^(1-β_t) p(x, z)^β_t,    0 = β_0 < ... < β_T = 1,

    each by a transition of Hamiltonian Monte Carlo at each of β_1, ..., β_{T-1}, with the weights

        log w = Σ_t (β_t - β_{t-1}) [log p(x, z_{t-1}) - log f_0(z_{t-1})],    E[w] = p(x),

    however short the chains. The estimate is log (1/K) Σ_k w_k: below log p(x) in expectation, and
    converging with temperatures and chains where importance sampling from q(z | x) does not. The
    β_t follow a sigmoid, dense at both ends. The step size of each datum and temperature is tuned
    to an acceptance of 65 % on separate chains, since E[w] ≠ p(x) for chains that tune their own.

    A discrete y that guide or model enumerates is summed out of p(x, z) and f_0. All chains of as
    many data as fit into 1,000 rows (20,000 on an accelerator) move at once. Costs (T - 1)
    (leapfrog_steps + 1) gradients per chain, plus a tenth, at least 140 transitions, for tuning.

    Source: Neal 2001, "Annealed importance sampling" (arXiv physics/9803008); for decoders and with
    HMC, Wu et al. 2017 (arXiv 1611.04273), section 3.

    Args:
        pair: any model/guide pair whose latents are real vectors, or enumerated.
        x, context, mask: the data, as in :func:`ppl_vae.evaluation.elbo_terms`.
        num_chains: K, independent chains for each datum.
        num_temperatures: T, the number of steps from f_0 to p(x, z).
        leapfrog_steps: of each transition.
        start: ``"prior"``, or ``"posterior"`` for q(z | x), which is closer but, if too narrow, may
            conceal the modes that it misses.
        seed: of the draws; the global random state is unchanged.
        progress: show a progress bar, of data × temperatures.

    Raises:
        NotImplementedError: if a latent site is constrained, or discrete and not enumerated; the
            message names it.
        ValueError: if x is empty or incompatible with the pair; if a weight is NaN or infinite, or
            all of a datum are zero (the message names the first such datum).

    Example:
        >>> from ppl_vae.testing import LinearGaussian
        >>> x = torch.zeros(3, 5).double()
        >>> pair = LinearGaussian(data_dim=5, latent_dim=2)
        >>> annealed_importance_sampling(pair, x, num_temperatures=10).log_px.shape
        torch.Size([3])
    """
    owner = "annealed_importance_sampling"
    num_chains = positive_int(owner, "num_chains", num_chains)
    num_temperatures = positive_int(owner, "num_temperatures", num_temperatures)
    leapfrog_steps = positive_int(owner, "leapfrog_steps", leapfrog_steps)
    inputs = program_inputs(owner, pair, x, context, mask)
    results = []
    bar = progress_bar(owner, "AIS", len(inputs) * num_temperatures, progress, "step")
    possible = gradients_possible(owner, pair)
    with bar, possible, evaluating(pair.model, pair.guide), seeded(owner, seed):
        for batch in traced_batches(owner, pair, inputs, num_chains):
            joint = Joint(owner, batch, start)
            betas = schedule(num_temperatures)
            first = State.at(joint, joint.sample(num_chains))
            check_log_weights(owner, first.log_joint - first.log_start, batch.start)
            with pyro.validation_enabled(False):  # trajectories that diverge are rejected
                steps = _tuned(joint, num_chains, num_temperatures, leapfrog_steps)
                log_w, acceptance = _annealed(joint, first, betas, steps, leapfrog_steps, bar)
            parts = *_over_chains(owner, log_w, batch.start).all[:3], acceptance
            results.append([part.to(first.log_joint.dtype) for part in parts])
    columns = map(torch.cat, zip(*results, strict=True))
    levels = dequantised_levels_of(x)
    return AnnealedLikelihood(*columns, kind=batch.kind, dequantised_levels=levels)


def bidirectional_monte_carlo(
    pair: ModelAndGuide,
    num_data: int,
    *context: Tensor,
    num_chains: int = 16,
    num_temperatures: int = 1000,
    leapfrog_steps: int = 10,
    start: Start = "prior",
    like: Tensor | None = None,
    seed: int = 0,
    progress: bool = False,
) -> BidirectionalBounds:
    r"""Bound log p(x) from below and above, on data drawn from the model itself.

    If x and z are drawn together, z is an exact draw from p(z | x). Annealed importance sampling
    run backwards from it, from p(x, z) to f_0, has weights with E[1/w] = 1/p(x), so that

        E[ log (1/K) Σ_k w_k ]  ≤  log p(x)  ≤  E[ -log (1/K) Σ_k 1/w'_k ],

    w forward and w' backward. A small gap certifies these settings on data that the model
    generates, which for a poor model are unlike its training data.

    Source: Grosse et al. 2015 (arXiv 1511.02543), section 3; Wu et al. 2017 (arXiv 1611.04273).

    Args:
        pair: any model/guide pair whose latents are real vectors, or enumerated, with the data at
            the site ``x``.
        num_data: N, the number of data to draw.
        context: further arguments of the programs, such as labels, of N entries each.
        num_chains: K, chains in each direction for each datum.
        num_temperatures: as in :func:`annealed_importance_sampling`.
        leapfrog_steps: of each transition.
        start: ``"prior"`` or ``"posterior"``.
        like: a tensor of the data's shape, ``(N, *event)``, of any values: for your own programs
            that are called as ``model(x)`` and not as ``model(size=n)``.
        seed: of the draws; the global random state is unchanged.
        progress: show a progress bar, of data × temperatures.

    Raises:
        TypeError: if the model takes no ``size`` and ``like`` is not given.
        NotImplementedError: if a latent site is constrained, or discrete and not enumerated.
        ValueError: if a weight is not finite, or there is no site ``x``.

    Example:
        >>> from ppl_vae.testing import LinearGaussian
        >>> pair, like = LinearGaussian(data_dim=5, latent_dim=2), torch.zeros(3, 5).double()
        >>> bidirectional_monte_carlo(pair, 3, like=like, num_temperatures=10).gap.shape
        torch.Size([3])
    """
    owner = "bidirectional_monte_carlo"
    check_pair(owner, pair)
    num_data = positive_int(owner, "num_data", num_data)
    if like is not None and not isinstance(like, Tensor):
        raise TypeError(f"{owner}: like must be a tensor of data, got {describe(like)}")
    num_chains = positive_int(owner, "num_chains", num_chains)
    num_temperatures = positive_int(owner, "num_temperatures", num_temperatures)
    leapfrog_steps = positive_int(owner, "leapfrog_steps", leapfrog_steps)
    bounds: list[list[Tensor]] = []
    bar = progress_bar(owner, "BDMC", 2 * num_data * num_temperatures, progress, "step")
    possible = gradients_possible(owner, pair)
    with bar, possible, evaluating(pair.model, pair.guide), seeded(owner, seed):
        x, sites = simulated(owner, pair, num_data, context, like)
        inputs = program_inputs(owner, pair, x, context)
        for batch in traced_batches(owner, pair, inputs, num_chains):
            joint = Joint(owner, batch, start)
            betas = schedule(num_temperatures)
            first = State.at(joint, joint.sample(num_chains))
            exact = {}
            for name in batch.latents:
                z = sites[name]["value"].narrow(joint.data_dim(name), batch.start, len(batch))
                exact[name] = z.expand(num_chains, *z.shape).clone()
            last = State.at(joint, exact)
            for state in (first, last):
                check_log_weights(owner, state.log_joint - state.log_start, batch.start)
            with pyro.validation_enabled(False):
                steps = _tuned(joint, num_chains, num_temperatures, leapfrog_steps)
                forward, _ = _annealed(joint, first, betas, steps, leapfrog_steps, bar)
                backward, _ = _annealed(joint, last, betas[::-1], steps, leapfrog_steps, bar)
            lower, upper = (_over_chains(owner, w, batch.start) for w in (forward, backward))
            both = lower.log_mean, -upper.log_mean
            bounds.append([bound.to(first.log_joint.dtype) for bound in both])
    at_least, at_most = map(torch.cat, zip(*bounds, strict=True))
    return BidirectionalBounds(at_least, at_most, x)


def schedule(num_temperatures: int) -> list[float]:
    """Return β_0 = 0, ..., β_T = 1, sigmoid(4 (2t/T - 1)) stretched to reach both ends.

    Source: Grosse et al. 2015 (arXiv 1511.02543), section 6.
    """
    at = torch.linspace(-_STEEPNESS, _STEEPNESS, num_temperatures + 1, dtype=torch.float64)
    values = at.sigmoid()
    stretched = (values - values[0]) / (values[-1] - values[0])
    return [0.0, *stretched[1:-1].tolist(), 1.0]


def _annealed(
    joint: Joint,
    state: State,
    betas: Sequence[float],
    steps: StepSizes,
    leapfrog_steps: int,
    bar: tqdm,
) -> tuple[Float[Tensor, "chains data"], Float[Tensor, " data"]]:
    """Anneal chains and return Σ (β' - β) log ratio and the mean acceptance.

    Forward these are log weights with E[w] = p(x); backward, minus those with E[1/w] = 1/p(x).
    """
    log_w = torch.zeros_like(state.log_joint, dtype=torch.float64)
    accepted = torch.zeros_like(log_w[0])
    for index in range(1, len(betas)):
        change = betas[index] - betas[index - 1]
        log_w += change * (state.log_joint - state.log_start).double()
        if index < len(betas) - 1:
            beta = betas[index]
            state, probability = transition(joint, state, beta, steps.at(beta), leapfrog_steps)
            accepted += probability.mean(0)
        bar.update(log_w.shape[1])
    return log_w, accepted / (len(betas) - 2 or math.nan)


def _over_chains(owner: str, log_w: Float[Tensor, "chains data"], start: int) -> WeightStatistics:
    """Return statistics over chains, checked to be finite and not zero."""
    statistics = WeightStatistics(len(log_w))
    statistics.add(log_w)
    check_log_weights(owner, statistics.log_sum[None], start, zero_too=True)
    return statistics


def _tuned(joint: Joint, num_chains: int, num_temperatures: int, leapfrog_steps: int) -> StepSizes:
    """Tune step sizes on separate chains, which anneal in fewer steps."""
    state = State.at(joint, joint.sample(num_chains))
    log_step = torch.full_like(state.log_joint[:1], math.log(_FIRST_STEP))
    if num_temperatures == 1:
        return StepSizes([0.0], log_step)  # nothing moves
    betas = schedule(max(_FEWEST_TUNED, num_temperatures // 10))[1:-1]
    tuned = []
    for turn, beta in enumerate([betas[0]] * _WARM_UP + betas):
        state, probability = transition(joint, state, beta, log_step.exp(), leapfrog_steps)
        rate = _WARM_UP_RATE if turn < _WARM_UP else _RATE
        log_step = log_step + rate * (probability.mean(0, keepdim=True) - TARGET_ACCEPTANCE)
        tuned.append(log_step)
    return StepSizes(betas, torch.cat(tuned[_WARM_UP:]))
