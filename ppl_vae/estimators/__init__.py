"""Estimators of bounds on log p(x): ``pyro.infer.ELBO`` subclasses that know Pyro and no model."""

from ppl_vae.estimators.analytic import AnalyticKLELBO
from ppl_vae.estimators.importance import ImportanceWeightedELBO
from ppl_vae.estimators.kl_weight import (
    KLWeight,
    KLWeighted,
    constant,
    cyclical_warm_up,
    linear_warm_up,
)
from ppl_vae.estimators.temperature import Temperature, TemperatureScheduled
from ppl_vae.estimators.total_correlation import TotalCorrelationELBO
from ppl_vae.resident_constants import map_constants

__all__ = [
    "AnalyticKLELBO",
    "ImportanceWeightedELBO",
    "KLWeight",
    "KLWeighted",
    "Temperature",
    "TemperatureScheduled",
    "TotalCorrelationELBO",
    "constant",
    "cyclical_warm_up",
    "linear_warm_up",
]

map_constants()
