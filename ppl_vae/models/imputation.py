"""Filling what is missing from the posterior predictive, for any pair."""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ppl_vae.errors import describe, flag, positive_int
from ppl_vae.estimators.training_terms import is_training_term
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
                f"impute: x has {len(x)} data, but a further argument is {describe(tensor)}; give "
                f"a tensor with one entry for each datum"
            )
    size = max(1, MAX_ROWS // max(num_particles, draws))
    parts = zip(*(t.split(size) for t in (x, mask, *context)), strict=True)
    filled = torch.cat(
        [_part(model, guide, draws, num_particles, mean, *part) for part in parts], dim=1
    )
    return filled[0] if num_samples is None else filled


def _part(
    model: nn.Module,
    guide: nn.Module,
    draws: int,
    num_particles: int,
    mean: bool,
    x: Tensor,
    mask: Tensor,
    *context: Tensor,
) -> Tensor:
    """Return imputations of some of the data, shape ``(draws, batch, *event)``."""
    particles = pyro.plate("particles", num_particles, dim=-2)
    drawn = poutine.trace(particles(guide)).get_trace(x, *context, mask=mask)
    scored = poutine.trace(poutine.replay(particles(model), trace=drawn)).get_trace(
        x, *context, mask=mask
    )
    log_w = x.new_zeros(num_particles, len(x))
    for trace, sign in ((scored, 1), (drawn, -1)):
        trace.compute_log_prob()
        for site in trace.nodes.values():
            if site["type"] != "sample" or site_is_subsample(site) or is_training_term(site):
                continue
            log_w = log_w + sign * site["log_prob"]
    chosen = torch.distributions.Categorical(logits=log_w.T).sample((draws,))
    data = torch.arange(len(x), device=x.device)
    latents = {}
    for name, site in drawn.nodes.items():
        if site["type"] == "sample" and not site_is_subsample(site):
            event = site["value"].shape[site["value"].dim() - site["fn"].event_dim :]
            latents[name] = site["value"].expand(*log_w.shape, *event)[chosen, data]
    again = poutine.condition(pyro.plate("draws", draws, dim=-2)(model), data=latents)
    site = poutine.trace(again).get_trace(None, *context, size=len(x)).nodes["x"]
    return torch.where(mask, x, site["fn"].mean if mean else site["value"])
