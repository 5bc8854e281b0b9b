"""Log-densities of a pair as functions of its latents' values, per particle and datum."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from pyro.distributions import constraints
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions.constraints import Constraint

from ppl_vae.estimators.log_weights import model_terms
from ppl_vae.estimators.traces import sample_sites
from ppl_vae.evaluation.programs import Batch, Enumerating

Start = Literal["prior", "posterior"]
Values = dict[str, Tensor]
"""Per latent site a value of shape ``(particles, *plates, *event)``."""


class Joint:
    """log p(x, ·) of some data and a normalised log-density to start from, on unbounded latents.

    Discrete sites that model or guide enumerates are summed out of both.

    Args:
        owner: the function, for messages.
        batch: the pair on these data.
        start: ``"prior"`` for p(z), or ``"posterior"`` for q(z | x).

    Raises:
        NotImplementedError: if a latent is constrained or discrete, or there is none.
        ValueError: if starting from q(z | x) and a latent is not in the guide.
    """

    def __init__(self, owner: str, batch: Batch, start: Start) -> None:
        self.batch = batch
        self._from_guide = start == "posterior"
        self._model = Enumerating(batch.enumerated, "parallel")(batch.model)
        self._guide = Enumerating(batch.enumerated, "parallel")(batch.guide)
        self._sampler = Enumerating(batch.enumerated, None)(
            batch.guide if self._from_guide else batch.model
        )
        model_sites, guide_sites = batch.model_trace.nodes, batch.guide_trace.nodes
        self._event_dims = {name: model_sites[name]["fn"].event_dim for name in batch.latents}
        self._observed = [s["name"] for s in sample_sites(batch.model_trace) if s["is_observed"]]
        if not batch.latents:
            raise NotImplementedError(
                f"{owner}: the model has no continuous latent; log_likelihood sums discrete ones "
                f"exactly"
            )
        for name in batch.latents:
            _check_unbounded(owner, name, model_sites[name]["fn"].support)
            if not self._from_guide:
                continue
            if name not in guide_sites:
                raise ValueError(
                    f"{owner}: latent site {name!r} is not in the guide; sample it there, or use "
                    f"start='prior'"
                )
            _check_unbounded(owner, name, guide_sites[name]["fn"].support)

    def sample(self, num_particles: int) -> Values:
        """Draw latents from the start distribution."""
        trace = self.batch.run(self._sampler, num_particles)
        return {name: trace.nodes[name]["value"].clone() for name in self.batch.latents}

    def log_densities(
        self, values: Values
    ) -> tuple[Float[Tensor, "particles data"], Float[Tensor, "particles data"]]:
        """Return the start's log-density and log p(x, ·), in nats."""
        batch = self.batch
        num_particles = len(next(iter(values.values())))
        given = self._trace_of(values)
        model = batch.run(self._model, num_particles, given)
        log_joint, _ = model_terms(model, batch.datum, batch.latents)
        if self._from_guide:
            guide = batch.run(self._guide, num_particles, given)
            log_start, _ = model_terms(guide, batch.datum, batch.latents)
        else:
            log_start, _ = model_terms(model, batch.datum, batch.latents, skip=self._observed)
        return (
            batch.per_particle(log_start, num_particles),
            batch.per_particle(log_joint, num_particles),
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
        return self.batch.per_particle(total, len(total))

    def beside(self, name: str, term: Shaped[Tensor, "#particles #data"]) -> Shaped[Tensor, "..."]:
        """Shape a term of each particle and datum so that it broadcasts with a site's values."""
        sizes = [1] * (-self.batch.particle_dim + self._event_dims[name])
        sizes[0], sizes[self.data_dim(name)] = term.shape
        return term.reshape(sizes)

    def data_dim(self, name: str) -> int:
        """Return the dimension of a site's values, from the right, that counts data."""
        return self.batch.datum.batch_dim - self._event_dims[name]

    @property
    def _inner_dims(self) -> list[int]:
        plates = range(self.batch.particle_dim + 1, 0)
        return [dim for dim in plates if dim != self.batch.datum.batch_dim]

    def _trace_of(self, values: Values) -> Trace:
        trace = Trace()
        for name, value in values.items():
            trace.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
        return trace


def _check_unbounded(owner: str, name: str, support: Constraint) -> None:
    element = support
    while hasattr(element, "base_constraint"):  # of independent entries, or of mixtures
        element = element.base_constraint
    if isinstance(element, type(constraints.real)):
        return
    advice = (
        "mark it infer={'enumerate': 'parallel'} and it is summed out"
        if support.is_discrete
        else "use log_likelihood, or a latent on the real line that the program transforms"
    )
    raise NotImplementedError(
        f"{owner}: latent site {name!r} has the support {support}, and Hamiltonian Monte Carlo "
        f"moves on real vectors; {advice}"
    )
