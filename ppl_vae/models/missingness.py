"""Whether entries are observed, as part of a program: values not missing at random."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.models.observation import Observation
from ppl_vae.models.shapes import check_modules, probe

MISSING = "x_missing"
"""The site of the missing entries of x; its other entries mean nothing."""
MASK = "mask"
"""The site of which entries are observed."""


def check_missingness(
    owner: str, missingness: nn.Module, likelihood: nn.Module, observation: Observation
) -> None:
    """Raise an error unless p(m | x) is of x's shape, and p(x | z) has reparameterised draws."""
    check_modules(owner, {"missingness": missingness})
    p_m = probe(owner, "missingness", missingness, observation.event_shape)
    if p_m.event_shape != observation.event_shape or str(p_m.support).find("Boolean") < 0:
        raise ValueError(
            f"{owner}: missingness must be a distribution of 0 and 1 of x's shape "
            f"{tuple(observation.event_shape)}, got one of {p_m.support} of event shape "
            f"{tuple(p_m.event_shape)}; likelihoods.Bernoulli(net) is one"
        )
    if observation.is_discrete:
        raise ValueError(
            f"{owner}: missingness needs missing values drawn by reparameterisation, but those of "
            f"{type(likelihood).__name__} are discrete; use a continuous likelihood"
        )


def sample_missing(observation: Observation, p_x: Distribution) -> Tensor:
    """Make the site of the missing entries and return its value, a draw of all of x.

    Model and guide have the same distribution there, so its density cancels, entry by entry.
    """
    if not p_x.has_rsample:
        raise NotImplementedError(
            f"missingness: missing values are drawn by reparameterisation, which the "
            f"{observation.likelihood} likelihood does not have; use continuous columns"
        )
    value: Tensor = pyro.sample(MISSING, p_x)
    return value


def sample_mask(
    missingness: nn.Module,
    observation: Observation,
    p_x: Distribution,
    x: Tensor | None,
    drawn: Tensor,
    mask: Tensor | None,
) -> None:
    """Make the site ``mask``, given x with its missing entries; drawn if x is None."""
    observed: Any = None
    if x is not None:
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        if mask is not None:
            drawn = torch.where(mask, drawn, sample_missing(observation, p_x))
        observed = seen.to(drawn.dtype)
    pyro.sample(MASK, missingness(drawn), obs=observed)
