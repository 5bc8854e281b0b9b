"""Evaluation of any pair: the ELBO's terms, importance-weighted bounds, accuracy, bits."""

from ppl_vae.evaluation.bits import bits_per_dim
from ppl_vae.evaluation.bounds import ELBOTerms, elbo_terms, importance_bounds
from ppl_vae.evaluation.classification import accuracy
from ppl_vae.evaluation.estimate import Estimate

__all__ = ["ELBOTerms", "Estimate", "accuracy", "bits_per_dim", "elbo_terms", "importance_bounds"]
