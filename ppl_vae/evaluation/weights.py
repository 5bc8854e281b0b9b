"""Importance weights of a pair on some of the data."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.estimators.log_weights import Enumerated, log_weights
from ppl_vae.evaluation.programs import PLATE, Batch


def summed_log_weights(batch: Batch, num_particles: int) -> Float[Tensor, "particles batch"]:
    """Return log Σ_y w_y of new particles, the enumerated values summed out."""
    weights = log_weights(batch.program, num_particles=num_particles, plate=PLATE)
    log_w = weights.log_p - weights.log_q
    for enumerated in (weights.outer, weights.inner):
        if enumerated.dims:
            log_w = (log_w + _masked_probability(enumerated)).logsumexp(
                enumerated.dims, keepdim=True
            )
    return batch.per_particle(log_w, num_particles)


def _masked_probability(enumerated: Enumerated) -> Tensor:
    """Return log q(y | x) where its site is masked, and 0 elsewhere.

    A masked datum has w_y = 1 for each y, and each would count.
    """
    log_prob, cost = torch.broadcast_tensors(enumerated.log_prob, enumerated.cost)
    return torch.where(log_prob == cost, 0.0, log_prob)
