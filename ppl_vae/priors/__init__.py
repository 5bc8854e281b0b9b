"""Priors p(z): conditional distributions with no context, event shape ``(latent_dim,)``."""

from ppl_vae.priors.mixture import GaussianMixture
from ppl_vae.priors.standard import StandardNormal

__all__ = ["GaussianMixture", "StandardNormal"]
