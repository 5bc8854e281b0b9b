"""Posteriors q(z | x): conditional distributions that a network computes from the data."""

from ppl_vae.posteriors.categorical import Categorical
from ppl_vae.posteriors.normal import DiagonalNormal

__all__ = ["Categorical", "DiagonalNormal"]
