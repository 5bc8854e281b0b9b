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
from ppl_vae.evaluation.calibration_result import Calibration, Finding, RankedQuantity
from ppl_vae.evaluation.classification import (
    Reliability,
    accuracy,
    accuracy_interval,
    expected_calibration_error,
    reliability,
)
from ppl_vae.evaluation.decomposition import KLDecomposition, kl_decomposition
from ppl_vae.evaluation.dependencies import relations
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.factor_scores import (
    Disentanglement,
    disentanglement,
    disentanglement_of_codes,
)
from ppl_vae.evaluation.gaps import InferenceGap, inference_gap
from ppl_vae.evaluation.guide_calibration import calibration
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
    "Disentanglement",
    "ELBOTerms",
    "Estimate",
    "Finding",
    "HamiltonianMonteCarlo",
    "ImportanceResampling",
    "InferenceGap",
    "KLDecomposition",
    "LatentUnits",
    "LocalOptimisation",
    "LogLikelihood",
    "PosteriorDraws",
    "PredictiveChecks",
    "RankedQuantity",
    "Reliability",
    "accuracy",
    "accuracy_interval",
    "annealed_importance_sampling",
    "bidirectional_monte_carlo",
    "bits_per_dim",
    "calibration",
    "clustering",
    "disentanglement",
    "disentanglement_of_codes",
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
    "reliability",
    "responsibilities",
    "to_arviz",
]
