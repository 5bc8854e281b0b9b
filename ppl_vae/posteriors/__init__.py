"""Posteriors q(z | x): conditional distributions whose parameters a network computes from x."""

from ppl_vae.posteriors.categorical import Categorical
from ppl_vae.posteriors.flow import Flow
from ppl_vae.posteriors.ladder import PrecisionWeighted
from ppl_vae.posteriors.mixture import GaussianMixture
from ppl_vae.posteriors.normal import DiagonalNormal, FullRankNormal, LowRankNormal

__all__ = [
    "Categorical",
    "DiagonalNormal",
    "Flow",
    "FullRankNormal",
    "GaussianMixture",
    "LowRankNormal",
    "PrecisionWeighted",
]
