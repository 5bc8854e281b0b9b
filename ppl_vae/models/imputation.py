"""Imputation of missing entries from the posterior predictive, for any pair."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.errors import describe, flag, positive_int, quoted
from ppl_vae.estimators.log_weights import weighted_particles
from ppl_vae.models.missingness import MISSING

MAX_ROWS = 20_000
"""How many rows (data times particles) go through the networks at once; bounds the memory."""


def imputed(
    pair: Any,
    batches: Iterable[tuple[Any, ...]],
    num_samples: int | None,
    num_particles: int,
    mean: bool,
) -> Tensor:
    """Return batches (x, mask, *context), filled; see :meth:`ppl_vae.models.pair.Pair.impute`."""
    draws = 1 if num_samples is None else positive_int("impute", "num_samples", num_samples)
    num_particles = positive_int("impute", "num_particles", num_particles)
    mean = flag("impute", "mean", mean)
    size = max(1, MAX_ROWS // max(num_particles, draws))
    if mean and num_samples is None:
        guessed = [
            _guessed(pair, num_particles, *rows)
            for batch in batches
            for rows in zip(*(t.split(size) for t in _checked(pair, *batch)), strict=True)
        ]
        return torch.cat(guessed)
    filled = [
        _filled(pair, draws, num_particles, mean, *rows)
        for batch in batches
        for rows in zip(*(t.split(size) for t in _checked(pair, *batch)), strict=True)
    ]
    together = torch.cat(filled, dim=1)
    return together[0] if num_samples is None else together


def _checked(pair: Any, x: Tensor, mask: Tensor, *context: Tensor) -> tuple[Tensor, ...]:
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"impute: mask must be a boolean tensor, True where x is observed, got {describe(mask)}"
        )
    pair.observation.check(x, mask)
    for tensor in context:
        if not isinstance(tensor, Tensor) or tensor.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"impute: x has {len(x)} data, so further arguments need {len(x)} entries, got "
                f"{describe(tensor)}"
            )
    return x, mask, *context


def _guessed(pair: Any, particles: int, x: Tensor, mask: Tensor, *context: Tensor) -> Tensor:
    """Return some rows, filled with their best guess."""
    model, likelihood = pair.model, pair.likelihood
    log_w, drawn, fixed = weighted_particles(
        model, pair.guide, x, *context, num_particles=particles, max_plate_nesting=1, mask=mask
    )
    _warn_of_point_masses(fixed, particles)
    if MISSING in drawn:  # weighed with the mask that they explain
        return torch.where(mask, x, _average(log_w, drawn[MISSING]))
    p_x = _observation_given(model, particles, drawn, len(x), *context)["fn"]
    if not hasattr(likelihood, "statistics"):
        return torch.where(mask, x, _average(log_w, pair.observation.mean_of("impute", p_x)))
    averages = [_average(log_w, statistics) for statistics in likelihood.statistics(p_x)]
    return torch.where(mask, x, likelihood.estimate(averages))


def _warn_of_point_masses(names: tuple[str, ...], particles: int) -> None:
    """Warn if there is nothing to resample, unless a single particle was asked for."""
    if names and particles > 1:
        warnings.warn(
            f"impute: the guide draws {quoted(names[0])} from a single point, so that all "
            f"num_particles={particles} are alike: missing entries come from p(x | z) there, not "
            f"from p(x_missing | x_observed); num_particles=1 does the same without a warning",
            stacklevel=2,
        )


def _average(log_w: Tensor, values: Tensor) -> Tensor:
    """Return the self-normalised average over particles, (K, N, *event) to (N, *event)."""
    weights = log_w.softmax(0)
    return torch.einsum("kn,kn...->n...", weights, values.expand(*weights.shape, *values.shape[2:]))


def _observation_given(
    model: Any, draws: int, latents: Mapping[str, Tensor], size: int, *context: Tensor
) -> Any:
    """Return the site ``x`` of the model at given latents, shape ``(draws, size, *event)``."""
    conditioned = poutine.condition(pyro.plate("draws", draws, dim=-2)(model), data=latents)
    return poutine.trace(conditioned).get_trace(None, *context, size=size).nodes["x"]


def _filled(
    pair: Any, draws: int, particles: int, mean: bool, x: Tensor, mask: Tensor, *context: Tensor
) -> Tensor:
    """Return imputations of some rows, shape ``(draws, rows, *event)``."""
    model, guide = pair.model, pair.guide
    log_w, drawn, fixed = weighted_particles(
        model, guide, x, *context, num_particles=particles, max_plate_nesting=1, mask=mask
    )
    _warn_of_point_masses(fixed, particles)
    chosen = torch.distributions.Categorical(logits=log_w.T).sample((draws,))
    data = torch.arange(len(x), device=x.device)
    latents = {name: value[chosen, data] for name, value in drawn.items()}
    if MISSING in latents:
        return torch.where(mask, x, latents[MISSING])
    site = _observation_given(model, draws, latents, len(x), *context)
    values = pair.observation.mean_of("impute", site["fn"]) if mean else site["value"]
    return torch.where(mask, x, values)
