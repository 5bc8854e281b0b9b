"""The ELBO of programs that have no weight per datum, by Pyro."""

from __future__ import annotations

import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from ppl_vae.estimators.handlers import PlatesWithin
from ppl_vae.estimators.traces import Runner


def elbo_loss(runner: Runner, num_particles: int) -> Tensor:
    """Return minus the ELBO by ``TraceEnum_ELBO``, in nats per batch.

    It sums over what a guide enumerates in plates and along Markov chains, term by term: the
    expectation of a sum of logarithms needs no joint values.
    """
    elbo = TraceEnum_ELBO(
        num_particles=num_particles,
        vectorize_particles=num_particles > 1,
        max_plate_nesting=runner.nesting,
        strict_enumeration_warning=False,
    )
    programs = (
        PlatesWithin(runner.nesting)(runner.model),
        PlatesWithin(runner.nesting)(runner.guide),
    )
    if torch.is_grad_enabled():
        return elbo.differentiable_loss(*programs, *runner.args, **runner.kwargs)
    loss = elbo.loss(*programs, *runner.args, **runner.kwargs)
    return torch.tensor(loss, dtype=torch.float64)
