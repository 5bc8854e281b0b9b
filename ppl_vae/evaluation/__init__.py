"""Evaluation of any pair: the terms of the ELBO, importance-weighted bounds, accuracy."""

from ppl_vae.evaluation.bounds import ELBOTerms, elbo_terms, importance_bounds
from ppl_vae.evaluation.classification import accuracy
from ppl_vae.evaluation.estimate import Estimate

__all__ = ["ELBOTerms", "Estimate", "accuracy", "elbo_terms", "importance_bounds"]
