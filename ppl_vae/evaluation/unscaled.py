"""Refusal of programs with weights on their densities, of which no number is a bound."""

from __future__ import annotations

import math

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from ppl_vae.registration import IgnoresParameters

PLATE = "data"
"""The name of the batch plate."""

_ROUNDING = 1e-6


class Unscaled(IgnoresParameters, Messenger):
    """Raise ValueError if a site has a weight other than those of subsampled plates."""

    def __init__(self, owner: str) -> None:
        super().__init__()
        self._owner = owner

    def _pyro_sample(self, msg: dict) -> None:
        masked_out = msg["is_observed"] and msg["mask"] is False
        if not (site_is_subsample(msg) or masked_out):
            plates = (f for f in msg["cond_indep_stack"] if f.vectorized)
            scales = ((frame.full_size or frame.size) / frame.size for frame in plates)
            check_unscaled(self._owner, msg, math.prod(scales), "poutine.scale")


def check_unscaled(owner: str, site: dict, expected: float, source: str) -> None:
    """Raise ValueError if a site's scale is not the expected one, which may come from a source."""
    if PLATE not in (frame.name for frame in site["cond_indep_stack"]):
        return  # a site outside the plate raises where its density is read
    factor = torch.as_tensor(site["scale"] / expected)
    if not ((factor - 1).abs() <= _ROUNDING).all():
        raise ValueError(
            f"{owner}: the log-density of site {site['name']!r} is scaled by {factor.tolist()} "
            f"({source}); evaluate the pair without it"
        )
