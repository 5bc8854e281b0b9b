"""Priors p(z): conditional distributions without context, event shape ``(latent_dim,)``.

Of one-hot codes and of vectors of a codebook, z is the codes in a row, with
``latent_dim * categories`` or ``latent_dim * code_dim`` entries.

``ConditionalNormal``, ``ConditionalFlow``, and ``VampPrior`` if its posterior has one, take a
context: p(z | c).
"""

from ppl_vae.priors.autoregressive import Autoregressive
from ppl_vae.priors.code_mixtures import BernoulliMixture, CategoricalMixture
from ppl_vae.priors.codebook import Codebook
from ppl_vae.priors.codes import Bernoulli, Categorical
from ppl_vae.priors.flow import ConditionalFlow, Flow
from ppl_vae.priors.mixture import GaussianMixture
from ppl_vae.priors.normal import ConditionalNormal, DiagonalNormal, FullRankNormal, StandardNormal
from ppl_vae.priors.vamp import VampPrior

__all__ = [
    "Autoregressive",
    "Bernoulli",
    "BernoulliMixture",
    "Categorical",
    "CategoricalMixture",
    "Codebook",
    "ConditionalFlow",
    "ConditionalNormal",
    "DiagonalNormal",
    "Flow",
    "FullRankNormal",
    "GaussianMixture",
    "StandardNormal",
    "VampPrior",
]
