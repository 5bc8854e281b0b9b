"""Variational autoencoders as probabilistic programs in Pyro.

A VAE is five independent choices (prior, posterior, likelihood, networks, estimator), each made on
its own. See :class:`ppl_vae.VAE` for the shortest example.
"""

from ppl_vae import estimators, evaluation, likelihoods, nets, posteriors, priors
from ppl_vae.conditional import ConditionalDistribution
from ppl_vae.models import VAE, ConditionalVAE, HierarchicalVAE, Pair, SemiSupervisedVAE, StackedVAE

__all__ = [
    "VAE",
    "ConditionalDistribution",
    "ConditionalVAE",
    "HierarchicalVAE",
    "Pair",
    "SemiSupervisedVAE",
    "StackedVAE",
    "estimators",
    "evaluation",
    "likelihoods",
    "nets",
    "posteriors",
    "priors",
]
__version__ = "0.1.0"
