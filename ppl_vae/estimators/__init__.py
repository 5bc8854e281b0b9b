"""Estimators of bounds on log p(x): ``pyro.infer.ELBO`` subclasses that know Pyro and no model."""

from ppl_vae.estimators.importance import ImportanceWeightedELBO

__all__ = ["ImportanceWeightedELBO"]
