"""Likelihoods p(x | z): conditional distributions that a network computes from the latents."""

from ppl_vae.likelihoods.bernoulli import Bernoulli
from ppl_vae.likelihoods.normal import Normal

__all__ = ["Bernoulli", "Normal"]
