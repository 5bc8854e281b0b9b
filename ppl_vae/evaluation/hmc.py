"""Hamiltonian Monte Carlo on the latents of a pair, all chains and data at once."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.evaluation.joint import Joint, Values

JITTER = 0.2
"""Each trajectory's step is scaled by U(1 - 0.2, 1 + 0.2), so that none is periodic."""


@dataclass(frozen=True, eq=False)
class State:
    """Where the chains are.

    Args:
        values: the latents.
        log_start: log-density of the start distribution there.
        log_joint: log p(x, ·) there.
    """

    values: Values
    log_start: Float[Tensor, "chains data"]
    log_joint: Float[Tensor, "chains data"]

    @classmethod
    def at(cls, joint: Joint, values: Values) -> State:
        """Return the state at some values."""
        return cls(values, *joint.log_densities(values))

    def log_density(self, beta: float) -> Float[Tensor, "chains data"]:
        """log f_β = (1 - β) log f_0 + β log p(x, ·), from 0 < β."""
        return (1 - beta) * self.log_start + beta * self.log_joint


def transition(
    joint: Joint,
    state: State,
    beta: float,
    step: Float[Tensor, "#chains #data"],
    leapfrog_steps: int,
) -> tuple[State, Float[Tensor, "chains data"]]:
    r"""Move each chain by a transition that leaves f_β invariant, and return how likely each moved.

    Momenta r ~ N(0, I) and leapfrog steps, accepted with probability min(1, e^{H - H'}), where
    H = -log f_β(z) + |r|²/2. Where a trajectory diverges, H' is no number and the chain stays.

    Source: Neal 2011, "MCMC using Hamiltonian dynamics" (arXiv 1206.1901), section 3.
    """
    shape = state.log_joint.shape
    jitter = 1 + JITTER * (2 * torch.rand(shape, device=step.device, dtype=step.dtype) - 1)
    steps = {name: joint.beside(name, step * jitter) for name in state.values}
    momenta = {name: torch.randn_like(value) for name, value in state.values.items()}
    before = state.log_density(beta) - _kinetic(joint, momenta)
    new, slopes = _with_slopes(joint, state.values, beta)
    for _ in range(leapfrog_steps):
        momenta = {n: r + 0.5 * steps[n] * slopes[n] for n, r in momenta.items()}
        new, slopes = _with_slopes(
            joint, {n: z + steps[n] * momenta[n] for n, z in new.values.items()}, beta
        )
        momenta = {n: r + 0.5 * steps[n] * slopes[n] for n, r in momenta.items()}
    log_ratio = new.log_density(beta) - _kinetic(joint, momenta) - before
    probability = log_ratio.nan_to_num(nan=-math.inf).clamp(max=0).exp()
    accepted = torch.rand_like(probability) < probability
    chosen = {
        n: torch.where(joint.beside(n, accepted), new.values[n], old)
        for n, old in state.values.items()
    }
    log_start = torch.where(accepted, new.log_start, state.log_start)
    log_joint = torch.where(accepted, new.log_joint, state.log_joint)
    return State(chosen, log_start, log_joint), probability


class StepSizes:
    """Step sizes that belong to temperatures, per datum, interpolated between those tuned.

    Args:
        betas: the temperatures at which steps were tuned, rising.
        log_steps: their logarithms, shape ``(len(betas), data)``.
    """

    def __init__(self, betas: list[float], log_steps: Float[Tensor, "betas data"]) -> None:
        self._betas = betas
        self._log_steps = log_steps

    def at(self, beta: float) -> Float[Tensor, "1 data"]:
        """Return the steps at a temperature."""
        above = bisect_right(self._betas, beta)
        if above in (0, len(self._betas)):
            return self._log_steps[[min(above, len(self._betas) - 1)]].exp()
        low, high = self._betas[above - 1], self._betas[above]
        weight = (beta - low) / (high - low)
        below, over = self._log_steps[[above - 1]], self._log_steps[[above]]
        return torch.lerp(below, over, weight).exp()


def _kinetic(joint: Joint, momenta: Values) -> Float[Tensor, "chains data"]:
    return 0.5 * joint.summed({name: r.square() for name, r in momenta.items()})


def _with_slopes(joint: Joint, values: Values, beta: float) -> tuple[State, Values]:
    """Return the state at some values and the gradient of log f_β there."""
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        state = State.at(joint, leaves)
        slopes = torch.autograd.grad(
            state.log_density(beta).sum(), list(leaves.values()), materialize_grads=True
        )
    detached = State(
        {name: value.detach() for name, value in leaves.items()},
        state.log_start.detach(),
        state.log_joint.detach(),
    )
    return detached, dict(zip(leaves, slopes, strict=True))
