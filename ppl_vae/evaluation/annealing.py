"""log p(x) by annealed importance sampling, and both bounds on it on simulated data."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from ppl_vae.ascii import for_stdout
from ppl_vae.errors import describe, flag, positive_int
from ppl_vae.evaluation.arguments import Array, Data, arguments, dequantised_levels_of
from ppl_vae.evaluation.bits import Kind
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.hmc import State, StepSizes, transition
from ppl_vae.evaluation.joint import Joint, Start, Values
from ppl_vae.evaluation.likelihood import Evidence, check_log_weights
from ppl_vae.evaluation.programs import batches
from ppl_vae.evaluation.seeding import seeded
from ppl_vae.evaluation.streaming import WeightSums
from ppl_vae.module_modes import evaluating
from ppl_vae.protocols import ModelAndGuide, check_pair

TARGET_ACCEPTANCE = 0.65
"""The acceptance that step sizes are tuned for (Neal 2011, section 4.4)."""

_STEEPNESS = 4.0
_FIRST_STEP = 0.1
_WARM_UP, _WARM_UP_RATE = 40, 1.0
_RATE = 0.3
_FEWEST_TUNED = 100


@dataclass(frozen=True, eq=False)
class AnnealedLikelihood(Evidence):
    """Annealed importance sampling estimates of log p(x), each of shape ``(N,)``.

    Args:
        log_px: log p̂(x) in nats, the log of the mean over chains.
        standard_error: of ``log_px``, over chains; of a few chains it is rough itself.
        ess: effective number of chains, 1 to the number of chains.
        acceptance: mean probability of accepting a transition; NaN where there was none.
        kind: whether p(x) is a ``"mass"``, a ``"density"``, or ``"both"``, in different sites; None
            where it is not known.
        dequantised_levels: how many levels the data had before noise was added, where they say so.
    """

    log_px: Float[Tensor, " data"]
    standard_error: Float[Tensor, " data"]
    ess: Float[Tensor, " data"]
    acceptance: Float[Tensor, " data"]
    kind: Kind | None = None
    dequantised_levels: int | None = None

    def __str__(self) -> str:
        return (
            f"-log p(x) = {self.nll} nats per datum over {len(self.log_px)} data (annealed; median "
            f"ESS {self.ess.median():.1f} chains, acceptance {self.acceptance.mean():.2f})"
        )


@dataclass(frozen=True, eq=False)
class BidirectionalBounds:
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
        """Upper minus lower, which in expectation is at least the error of each."""
        return self.upper - self.lower

    def __str__(self) -> str:
        bounds = (Estimate.of(values) for values in (self.lower, self.upper, self.gap))
        lower, upper, gap = bounds
        return for_stdout(f"{lower} ≤ log p(x) ≤ {upper} nats per datum, the gap {gap}")


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
    closing in with temperatures and chains where importance sampling from q(z | x) does not. The
    β_t are a sigmoid's values, close together at both ends. The step size of each datum and
    temperature is tuned to an acceptance of 65 % by chains that are then thrown away, since chains
    that tune their own steps have E[w] ≠ p(x).

    A discrete y that guide or model enumerates is summed out of p(x, z) and f_0. All chains of as
    many data as fit into 1,000 rows (20,000 on an accelerator) move at once. Costs (T - 1)
    (leapfrog_steps + 1) gradients per chain, and a tenth more, at least 140 transitions, to tune.

    Source: Neal 2001, "Annealed importance sampling" (arXiv physics/9803008); for decoders and with
    HMC, Wu et al. 2017 (arXiv 1611.04273), section 3.

    Args:
        pair: any model/guide pair whose latents are real vectors, or enumerated.
        x: the data, as in :func:`ppl_vae.evaluation.elbo_terms`.
        context: further arguments of the programs, such as labels, of N entries each.
        mask: boolean, of x's shape, True where x is observed; everything if not given.
        num_chains: K, independent chains for each datum.
        num_temperatures: T, how many steps lead from f_0 to p(x, z).
        leapfrog_steps: of each transition.
        start: ``"prior"``, or ``"posterior"`` for q(z | x), which is nearer and, where it is too
            narrow, may hide what it misses.
        seed: of the draws; the global random state is left as it was.
        progress: show a progress bar, of data × temperatures.

    Returns:
        log p̂(x) in nats, its standard error and effective sample size over chains, and the mean
        acceptance.

    Raises:
        NotImplementedError: if a latent site is constrained, or discrete and not enumerated; the
            message names it.
        ValueError: if x does not suit the pair or is empty, or a weight is NaN or infinite, or all
            of a datum are zero, the message names the first such datum.

    Example:
        >>> from ppl_vae import VAE, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(64, 4)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 64)),
        ... )
        >>> x = torch.ones(3, 64)
        >>> annealed_importance_sampling(vae, x, num_temperatures=10).log_px.shape
        torch.Size([3])
    """
    owner = "annealed_importance_sampling"
    check_pair(owner, pair)
    num_chains, num_temperatures, leapfrog_steps = _checked(
        owner, num_chains, num_temperatures, leapfrog_steps, start
    )
    progress = flag(owner, "progress", progress)
    given = arguments(owner, pair, x, context, mask)
    results = []
    kind: Kind | None = None
    with (
        torch.no_grad(),
        evaluating(pair.model, pair.guide),
        seeded(owner, seed),
        _bar("AIS", len(given) * num_temperatures, progress) as bar,
    ):
        for batch in batches(owner, pair, given, num_chains):
            joint = Joint(owner, batch, start)
            betas = schedule(num_temperatures)
            first = State.at(joint, joint.sample(num_chains))
            check_log_weights(owner, first.log_joint - first.log_start, batch.start)
            with pyro.validation_enabled(False):  # trajectories may diverge, and are then refused
                steps = _tuned(joint, num_chains, num_temperatures, leapfrog_steps)
                log_w, acceptance = _annealed(joint, first, betas, steps, leapfrog_steps, bar)
            sums = _over_chains(owner, log_w, batch.start)
            parts = (sums.log_mean, sums.standard_error, sums.ess, acceptance)
            results.append([part.to(first.log_joint.dtype) for part in parts])
            kind = batch.kind
    log_px, error, ess, accepted = (torch.cat(parts) for parts in zip(*results, strict=True))
    return AnnealedLikelihood(log_px, error, ess, accepted, kind, dequantised_levels_of(x))


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

    Where x and z are drawn together, z is an exact draw from p(z | x). Annealed importance sampling
    run backwards from it, p(x, z) to f_0, has weights of E[1/w] = 1/p(x), so that

        E[ log (1/K) Σ_k w_k ]  ≤  log p(x)  ≤  E[ -log (1/K) Σ_k 1/w'_k ],

    w forward and w' backward. A small gap says that both chains, with these settings, are accurate
    on such data: what the model generates, which for a poor model is unlike what it was trained on.

    Source: Grosse et al. 2015 (arXiv 1511.02543), section 3; Wu et al. 2017 (arXiv 1611.04273).

    Args:
        pair: any model/guide pair whose latents are real vectors, or enumerated, with the data at
            the site ``x``.
        num_data: N, how many data to draw.
        context: further arguments of the programs, such as labels, of N entries each.
        num_chains: K, chains in each direction for each datum.
        num_temperatures: as in :func:`annealed_importance_sampling`.
        leapfrog_steps: likewise.
        start: likewise.
        like: a tensor of the data's shape, ``(N, *event)``, of any values: for a program of your
            own that cannot be called as ``model(size=n)``, but ``model(x)``.
        seed: of the draws; the global random state is left as it was.
        progress: show a progress bar, of data × temperatures.

    Returns:
        The bounds per datum in nats, and the data.

    Raises:
        TypeError: if the model takes no ``size`` and ``like`` is not given.
        NotImplementedError: if a latent site is constrained, or discrete and not enumerated.
        ValueError: if a weight is not finite, or there is no site ``x``.

    Example:
        >>> from ppl_vae import VAE, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(64, 4)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 64)),
        ... )
        >>> bidirectional_monte_carlo(vae, 3, num_temperatures=10).gap.shape
        torch.Size([3])
    """
    owner = "bidirectional_monte_carlo"
    check_pair(owner, pair)
    num_data = positive_int(owner, "num_data", num_data)
    if like is not None and not isinstance(like, Tensor):
        raise TypeError(f"{owner}: like must be a tensor of data, got {describe(like)}")
    num_chains, num_temperatures, leapfrog_steps = _checked(
        owner, num_chains, num_temperatures, leapfrog_steps, start
    )
    progress = flag(owner, "progress", progress)
    lower: list[Tensor] = []
    upper: list[Tensor] = []
    with (
        torch.no_grad(),
        evaluating(pair.model, pair.guide),
        seeded(owner, seed),
        _bar("BDMC", 2 * num_data * num_temperatures, progress) as bar,
    ):
        x, sites = _simulated(owner, pair, num_data, context, like)
        for batch in batches(owner, pair, arguments(owner, pair, x, context), num_chains):
            joint = Joint(owner, batch, start)
            betas = schedule(num_temperatures)
            first = State.at(joint, joint.sample(num_chains))
            drawn = {
                name: sites[name].narrow(joint.data_dim(name), batch.start, len(batch))
                for name in batch.latents
            }
            last = State.at(joint, {n: _repeated(z, num_chains) for n, z in drawn.items()})
            for state in (first, last):
                check_log_weights(owner, state.log_joint - state.log_start, batch.start)
            with pyro.validation_enabled(False):
                steps = _tuned(joint, num_chains, num_temperatures, leapfrog_steps)
                forward, _ = _annealed(joint, first, betas, steps, leapfrog_steps, bar)
                backward, _ = _annealed(joint, last, betas[::-1], steps, leapfrog_steps, bar)
            for log_w, sign, bounds in ((forward, 1, lower), (backward, -1, upper)):
                sums = _over_chains(owner, log_w, batch.start)
                bounds.append((sign * sums.log_mean).to(first.log_joint.dtype))
    return BidirectionalBounds(torch.cat(lower), torch.cat(upper), x)


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
    """Take chains along temperatures, and return Σ (β' - β) log ratio and the mean acceptance.

    Forward these are the log weights of E[w] = p(x); backward, minus those of E[1/w] = 1/p(x).
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


def _over_chains(owner: str, log_w: Float[Tensor, "chains data"], start: int) -> WeightSums:
    """Return the sums over chains, and make sure that they are finite and not zero."""
    sums = WeightSums(len(log_w))
    sums.add(log_w)
    check_log_weights(owner, sums.log_sum[None], start, zero_too=True)
    return sums


def _tuned(joint: Joint, num_chains: int, num_temperatures: int, leapfrog_steps: int) -> StepSizes:
    """Tune step sizes on chains of their own, which anneal in fewer steps."""
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


def _simulated(
    owner: str, pair: ModelAndGuide, num_data: int, context: tuple, like: Tensor | None
) -> tuple[Tensor, Values]:
    """Draw data and return them with the values of all sites."""
    if like is not None:
        if len(like) != num_data:
            raise ValueError(
                f"{owner}: like must have num_data={num_data} entries, got {describe(like)}"
            )
        trace = poutine.trace(poutine.uncondition(pair.model)).get_trace(like, *context)
    elif "size" in inspect.signature(pair.model.forward).parameters:
        trace = poutine.trace(pair.model).get_trace(None, *context, size=num_data)
    else:
        raise TypeError(
            f"{owner}: {type(pair.model).__name__} takes no size=, so that no data can be drawn; "
            f"give like=, a tensor of the data's shape"
        )
    values = {n: s["value"] for n, s in trace.nodes.items() if s["type"] == "sample"}
    if "x" not in values:
        raise ValueError(
            f"{owner}: the model has no site 'x', only {sorted(values)}; name the data's site so"
        )
    return values["x"], values


def _repeated(value: Tensor, num_chains: int) -> Tensor:
    return value.expand(num_chains, *value.shape).clone()


def _bar(label: str, total: int, progress: bool) -> tqdm:
    return tqdm(
        total=total, desc=label, disable=not progress, leave=False, unit="step", unit_scale=True
    )


def _checked(
    owner: str, num_chains: int, num_temperatures: int, leapfrog_steps: int, start: str
) -> tuple[int, int, int]:
    """Return the numbers, of Python, or raise an error that names what cannot be."""
    if start not in get_args(Start):
        raise ValueError(f"{owner}: start must be one of {get_args(Start)}, got {start!r}")
    return (
        positive_int(owner, "num_chains", num_chains),
        positive_int(owner, "num_temperatures", num_temperatures),
        positive_int(owner, "leapfrog_steps", leapfrog_steps),
    )
