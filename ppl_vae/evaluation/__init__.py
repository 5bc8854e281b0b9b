"""Evaluation of any pair: bounds, log p(x), terms of the ELBO, latents, labels."""

from ppl_vae.evaluation.annealing import (
    AnnealedLikelihood,
    BidirectionalBounds,
    annealed_importance_sampling,
    bidirectional_monte_carlo,
)
from ppl_vae.evaluation.arviz_data import leave_one_out, to_arviz
from ppl_vae.evaluation.bits import bits_per_dim
from ppl_vae.evaluation.bounds import ELBOTerms, elbo_terms, importance_bounds
from ppl_vae.evaluation.classification import (
    Calibration,
    accuracy,
    accuracy_interval,
    calibration,
    expected_calibration_error,
)
from ppl_vae.evaluation.decomposition import KLDecomposition, kl_decomposition
from ppl_vae.evaluation.dependencies import relations
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.gaps import InferenceGap, inference_gap
from ppl_vae.evaluation.latent_dimensions import LatentUnits, latent_units
from ppl_vae.evaluation.likelihood import LogLikelihood, log_likelihood
from ppl_vae.evaluation.predictive import PredictiveChecks, predictive_checks
from ppl_vae.evaluation.refined_draws import PosteriorDraws, posterior_draws
from ppl_vae.evaluation.refinement import (
    HamiltonianMonteCarlo,
    ImportanceResampling,
    LocalOptimisation,
)
from ppl_vae.evaluation.representation import (
    Clustering,
    clustering,
    linear_probe,
    nearest_neighbours,
    responsibilities,
)

__all__ = [
    "AnnealedLikelihood",
    "BidirectionalBounds",
    "Calibration",
    "Clustering",
    "ELBOTerms",
    "Estimate",
    "HamiltonianMonteCarlo",
    "ImportanceResampling",
    "InferenceGap",
    "KLDecomposition",
    "LatentUnits",
    "LocalOptimisation",
    "LogLikelihood",
    "PosteriorDraws",
    "PredictiveChecks",
    "accuracy",
    "accuracy_interval",
    "annealed_importance_sampling",
    "bidirectional_monte_carlo",
    "bits_per_dim",
    "calibration",
    "clustering",
    "elbo_terms",
    "expected_calibration_error",
    "importance_bounds",
    "inference_gap",
    "kl_decomposition",
    "latent_units",
    "leave_one_out",
    "linear_probe",
    "log_likelihood",
    "nearest_neighbours",
    "posterior_draws",
    "predictive_checks",
    "relations",
    "responsibilities",
    "to_arviz",
]
