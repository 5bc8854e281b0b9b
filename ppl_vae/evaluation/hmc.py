"""Hamiltonian Monte Carlo on the latents of a pair, all chains and data at once."""

from __future__ import annotations

import math
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Shaped
from pyro.distributions import constraints
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions.constraints import Constraint

from ppl_vae.estimators.densities import model_terms
from ppl_vae.estimators.handlers import EnumerationMark
from ppl_vae.estimators.traces import sample_sites
from ppl_vae.evaluation.traced_batch import TracedBatch

Start = Literal["prior", "posterior"]
Values = dict[str, Tensor]
"""Per latent site a value of shape ``(particles, *plates, *event)``."""

JITTER = 0.2
"""Each trajectory's step is scaled by U(1 - 0.2, 1 + 0.2), so that none is periodic."""


class Joint:
    """log p(x, ·) of some data and the normalised density to start from, on unbounded latents.

    Sites that model or guide enumerates are summed out of both.

    Raises:
        NotImplementedError: if a latent is constrained or discrete, or there is none.
        ValueError: if starting from q(z | x) and a latent is not in the guide.
    """

    def __init__(self, owner: str, batch: TracedBatch, start: Start) -> None:
        if start not in get_args(Start):
            raise ValueError(f"{owner}: start must be one of {get_args(Start)}, got {start!r}")
        self.batch = batch
        self._from_guide = start == "posterior"
        self._model = EnumerationMark("parallel", batch.enumerated)(batch.model)
        self._guide = EnumerationMark("parallel", batch.enumerated)(batch.guide)
        self._sampler = EnumerationMark(None, batch.enumerated)(
            batch.guide if self._from_guide else batch.model
        )
        model_sites, guide_sites = batch.model_trace.nodes, batch.guide_trace.nodes
        self._event_dims = {name: model_sites[name]["fn"].event_dim for name in batch.latents}
        self._observed = [s["name"] for s in sample_sites(batch.model_trace) if s["is_observed"]]
        if not batch.latents:
            raise NotImplementedError(
                f"{owner}: the model has no continuous latent; log_likelihood sums discrete ones"
            )
        for name in batch.latents:
            _check_unbounded(owner, name, model_sites[name]["fn"].support, batch)
            if not self._from_guide:
                continue
            if name not in guide_sites:
                raise ValueError(
                    f"{owner}: latent site {name!r} is not in the guide; use start='prior'"
                )
            _check_unbounded(owner, name, guide_sites[name]["fn"].support, batch)
            if name in batch.point_masses:
                raise NotImplementedError(
                    f"{owner}: the guide draws latent site {name!r} from a single point, which is "
                    f"no density to start from; use start='prior'"
                )

    def sample(self, num_particles: int) -> Values:
        """Draw latents from the start distribution."""
        trace = self.batch.run(self._sampler, num_particles)
        return {name: trace.nodes[name]["value"].clone() for name in self.batch.latents}

    def log_densities(
        self, values: Values
    ) -> tuple[Float[Tensor, "particles data"], Float[Tensor, "particles data"]]:
        """Return the log-density of the start and log p(x, ·), in nats."""
        batch = self.batch
        num_particles = len(next(iter(values.values())))
        replayed = self._trace_of(values)
        model = batch.run(self._model, num_particles, replayed)
        log_joint, _ = model_terms(model, batch.plate, batch.latents)
        if self._from_guide:
            guide = batch.run(self._guide, num_particles, replayed)
            log_start, _ = model_terms(guide, batch.plate, batch.latents)
        else:
            log_start, _ = model_terms(model, batch.plate, batch.latents, skip=self._observed)
        return (
            batch.plate.per_particle(log_start, num_particles),
            batch.plate.per_particle(log_joint, num_particles),
        )

    def summed(self, values: Values) -> Float[Tensor, "particles data"]:
        """Sum each site's values over all but particles and data, and over sites."""
        total = torch.zeros(())
        for name, value in values.items():
            event_dim = self._event_dims[name]
            if event_dim:
                value = value.flatten(-event_dim).sum(-1)
            for dim in self._inner_dims:
                value = value.sum(dim, keepdim=True)
            total = total + value
        return self.batch.plate.per_particle(total, len(total))

    def broadcastable(
        self, name: str, term: Shaped[Tensor, "#particles #data"]
    ) -> Shaped[Tensor, "..."]:
        """Reshape a term per particle and datum to broadcast with a site's values."""
        sizes = [1] * (-self.batch.particle_dim + self._event_dims[name])
        sizes[0], sizes[self.data_dim(name)] = term.shape
        return term.reshape(sizes)

    def data_dim(self, name: str) -> int:
        """Return the (negative) batch dimension of a site's values."""
        return self.batch.plate.dim - self._event_dims[name]

    @property
    def _inner_dims(self) -> list[int]:
        plates = range(self.batch.particle_dim + 1, 0)
        return [dim for dim in plates if dim != self.batch.plate.dim]

    def _trace_of(self, values: Values) -> Trace:
        trace = Trace()
        for name, value in values.items():
            trace.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
        return trace


def remedies(batch: TracedBatch, more: str, by_chains: str, start: Start) -> str:
    """Return what helps where weights have a heavy tail: more draws, chains from a start, or none.

    Draws from a single point are all the same, and chains need latents that are real vectors.
    """
    found = [] if batch.is_point_mass else [more]
    with suppress(NotImplementedError, ValueError):
        Joint("remedies", batch, start)
        found.append(by_chains)
    site = "".join(map(repr, batch.point_masses[:1]))
    return ", or ".join(found) or f"more draws do not help: the guide draws {site} from one point"


def _check_unbounded(owner: str, name: str, support: Constraint, batch: TracedBatch) -> None:
    element = support
    while hasattr(element, "base_constraint"):  # of independent entries, or of mixtures
        element = element.base_constraint
    if isinstance(element, type(constraints.real)):
        return
    advice = "use log_likelihood, or transform a real latent in the program"
    if batch.is_point_mass:  # whose importance weights say nothing
        advice = "use elbo_terms"
    elif support.is_discrete and support.event_dim > 0:  # too many values to sum over
        advice = "use log_likelihood, or posterior_draws with refine='importance'"
    elif support.is_discrete:
        advice = "mark it infer={'enumerate': 'parallel'} and it is summed out"
    raise NotImplementedError(
        f"{owner}: latent site {name!r} must be real vectors, got the support {support}; {advice}"
    )


@dataclass(frozen=True, eq=False)
class State:
    """Where the chains are, with the log-density of the start and log p(x, ·) there."""

    values: Values
    log_start: Float[Tensor, "chains data"]
    log_joint: Float[Tensor, "chains data"]

    @classmethod
    def at(cls, joint: Joint, values: Values) -> State:
        """Return the state at some values."""
        return cls(values, *joint.log_densities(values))

    def log_density(self, beta: float) -> Float[Tensor, "chains data"]:
        """log f_β = (1 - β) log f_0 + β log p(x, ·) for β > 0."""
        return (1 - beta) * self.log_start + beta * self.log_joint


def transition(
    joint: Joint,
    state: State,
    beta: float,
    step: Float[Tensor, "#chains #data"],
    leapfrog_steps: int,
    scales: Values | None = None,
) -> tuple[State, Float[Tensor, "chains data"]]:
    r"""Move each chain by a transition that leaves f_β invariant; return the acceptance, too.

    Momenta r ~ N(0, I) and leapfrog steps, accepted with probability min(1, e^{H - H'}), where
    H = -log f_β(z) + |r|²/2. If a trajectory diverges, H' is NaN and the chain stays. With
    ``scales``, of the shape of one particle's values, each latent moves in steps of that unit: a
    diagonal mass matrix.

    Source: Neal 2011, "MCMC using Hamiltonian dynamics" (arXiv 1206.1901), section 3.
    """
    shape = state.log_joint.shape
    jitter = 1 + JITTER * (2 * torch.rand(shape, device=step.device, dtype=step.dtype) - 1)
    steps = {name: joint.broadcastable(name, step * jitter) for name in state.values}
    if scales is not None:
        steps = {name: size * scales[name] for name, size in steps.items()}
    momenta = {name: torch.randn_like(value) for name, value in state.values.items()}
    before = state.log_density(beta) - _kinetic(joint, momenta)
    new, gradient = _with_gradient(joint, state.values, beta)
    for _ in range(leapfrog_steps):
        momenta = {n: r + 0.5 * steps[n] * gradient[n] for n, r in momenta.items()}
        new, gradient = _with_gradient(
            joint, {n: z + steps[n] * momenta[n] for n, z in new.values.items()}, beta
        )
        momenta = {n: r + 0.5 * steps[n] * gradient[n] for n, r in momenta.items()}
    log_ratio = new.log_density(beta) - _kinetic(joint, momenta) - before
    probability = log_ratio.nan_to_num(nan=-math.inf).clamp(max=0).exp()
    accepted = torch.rand_like(probability) < probability
    chosen = {
        n: torch.where(joint.broadcastable(n, accepted), new.values[n], old)
        for n, old in state.values.items()
    }
    log_start = torch.where(accepted, new.log_start, state.log_start)
    log_joint = torch.where(accepted, new.log_joint, state.log_joint)
    return State(chosen, log_start, log_joint), probability


class StepSizes:
    """Step sizes per temperature and datum, interpolated between those tuned at ``betas``."""

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


def _with_gradient(joint: Joint, values: Values, beta: float) -> tuple[State, Values]:
    """Return the state at some values and the gradient of log f_β there."""
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        state = State.at(joint, leaves)
        gradient = torch.autograd.grad(
            state.log_density(beta).sum(), list(leaves.values()), materialize_grads=True
        )
    detached = {name: value.detach() for name, value in leaves.items()}
    state = State(detached, state.log_start.detach(), state.log_joint.detach())
    return state, dict(zip(leaves, gradient, strict=True))
