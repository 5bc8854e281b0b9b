"""Variational autoencoders as probabilistic programs in Pyro.

A VAE is five independent choices (prior, posterior, likelihood, networks, estimator), each made on
its own. See :class:`ppl_vae.VAE` for the shortest example.
"""

from ppl_vae import (
    config,
    estimators,
    evaluation,
    likelihoods,
    nets,
    posteriors,
    priors,
    storage,
)
from ppl_vae.conditional import ConditionalDistribution
from ppl_vae.config import from_config, to_config
from ppl_vae.models import VAE, ConditionalVAE, HierarchicalVAE, Pair, SemiSupervisedVAE, StackedVAE
from ppl_vae.storage import load

__all__ = [
    "VAE",
    "ConditionalDistribution",
    "ConditionalVAE",
    "HierarchicalVAE",
    "Pair",
    "SemiSupervisedVAE",
    "StackedVAE",
    "config",
    "estimators",
    "evaluation",
    "from_config",
    "likelihoods",
    "load",
    "nets",
    "posteriors",
    "priors",
    "storage",
    "to_config",
]
__version__ = "0.1.0"
