"""Training any pair under any estimator, to be interrupted and resumed at will."""

from ppl_vae.training.callbacks import Callback, TrainingState
from ppl_vae.training.fit import FitResult, fit
from ppl_vae.training.loop import Interrupted
from ppl_vae.training.nan_tracing import NotFiniteError
from ppl_vae.training.schedules import PiecewiseConstant
from ppl_vae.training.step import compile_step
from ppl_vae.training.stopping import EarlyStopping
from ppl_vae.training.summary import data_summary

__all__ = [
    "Callback",
    "EarlyStopping",
    "FitResult",
    "Interrupted",
    "NotFiniteError",
    "PiecewiseConstant",
    "TrainingState",
    "compile_step",
    "data_summary",
    "fit",
]
