"""Imputation of missing entries from the posterior predictive, for any pair."""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_vae.errors import describe, flag, positive_int
from ppl_vae.estimators.log_weights import weighted_particles
from ppl_vae.models.observation import Observation

MAX_ROWS = 20_000
"""How many rows (data times particles) go through the networks at once; bounds the memory."""


def imputed(
    model: nn.Module,
    guide: nn.Module,
    observation: Observation,
    x: Tensor,
    mask: Tensor,
    *context: Tensor,
    num_samples: int | None,
    num_particles: int,
    mean: bool,
) -> Tensor:
    """Return x with its missing entries filled; see :meth:`ppl_vae.models.pair.Pair.impute`."""
    draws = 1 if num_samples is None else positive_int("impute", "num_samples", num_samples)
    num_particles = positive_int("impute", "num_particles", num_particles)
    mean = flag("impute", "mean", mean)
    if not isinstance(mask, Tensor):
        raise TypeError(f"impute: mask must be a boolean tensor of x's shape, got {describe(mask)}")
    observation.check(x, mask)
    for tensor in context:
        if not isinstance(tensor, Tensor) or tensor.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"impute: x has {len(x)} data, so further arguments need {len(x)} entries, got "
                f"{describe(tensor)}"
            )
    size = max(1, MAX_ROWS // max(num_particles, draws))
    batches = zip(*(t.split(size) for t in (x, mask, *context)), strict=True)
    filled = torch.cat(
        [_impute_batch(model, guide, draws, num_particles, mean, *batch) for batch in batches],
        dim=1,
    )
    return filled[0] if num_samples is None else filled


def _impute_batch(
    model: nn.Module,
    guide: nn.Module,
    draws: int,
    num_particles: int,
    mean: bool,
    x: Tensor,
    mask: Tensor,
    *context: Tensor,
) -> Tensor:
    """Return imputations of one batch, shape ``(draws, batch, *event)``."""
    log_w, particles = weighted_particles(
        model, guide, x, *context, num_particles=num_particles, max_plate_nesting=1, mask=mask
    )
    chosen = torch.distributions.Categorical(logits=log_w.T).sample((draws,))
    data = torch.arange(len(x), device=x.device)
    latents = {name: value[chosen, data] for name, value in particles.items()}
    resampled = poutine.condition(pyro.plate("draws", draws, dim=-2)(model), data=latents)
    site = poutine.trace(resampled).get_trace(None, *context, size=len(x)).nodes["x"]
    return torch.where(mask, x, site["fn"].mean if mean else site["value"])
