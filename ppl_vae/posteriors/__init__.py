"""Posteriors q(z | x): conditional distributions whose parameters a network computes from x."""

from ppl_vae.posteriors.categorical import Categorical
from ppl_vae.posteriors.codes import (
    Bernoulli,
    OneHotCategorical,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
)
from ppl_vae.posteriors.flow import Flow
from ppl_vae.posteriors.ladder import PrecisionWeighted
from ppl_vae.posteriors.mixture import GaussianMixture
from ppl_vae.posteriors.normal import DiagonalNormal, FullRankNormal, LowRankNormal
from ppl_vae.posteriors.quantised import VectorQuantised

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiagonalNormal",
    "Flow",
    "FullRankNormal",
    "GaussianMixture",
    "LowRankNormal",
    "OneHotCategorical",
    "PrecisionWeighted",
    "RelaxedBernoulli",
    "RelaxedOneHotCategorical",
    "VectorQuantised",
]
