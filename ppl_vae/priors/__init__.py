"""Priors p(z): conditional distributions without context, event shape ``(latent_dim,)``.

``ConditionalNormal``, ``ConditionalFlow``, and ``VampPrior`` if its posterior has one, take a
context: p(z | c).
"""

from ppl_vae.priors.flow import ConditionalFlow, Flow
from ppl_vae.priors.mixture import GaussianMixture
from ppl_vae.priors.normal import ConditionalNormal, DiagonalNormal, FullRankNormal, StandardNormal
from ppl_vae.priors.vamp import VampPrior

__all__ = [
    "ConditionalFlow",
    "ConditionalNormal",
    "DiagonalNormal",
    "Flow",
    "FullRankNormal",
    "GaussianMixture",
    "StandardNormal",
    "VampPrior",
]
