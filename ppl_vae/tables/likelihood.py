"""log p of the rows of a table."""

from __future__ import annotations

import warnings

from torch import Tensor

from ppl_vae import evaluation
from ppl_vae.evaluation.pareto import warn_of_tail
from ppl_vae.models import VAE


def log_likelihood(
    pair: VAE, x: Tensor, mask: Tensor, *, num_samples: int, seed: int, progress: bool = False
) -> evaluation.LogLikelihood:
    """Return log p of observed cells; `warn_of_rows` says how far it can be trusted."""
    with warnings.catch_warnings():  # whose advice is for pairs
        warnings.filterwarnings("ignore", "log_likelihood: Pareto", UserWarning)
        return evaluation.log_likelihood(
            pair,
            x,
            mask=None if mask.all() else mask,
            num_samples=num_samples,
            seed=seed,
            progress=progress,
        )


def warn_of_rows(owner: str, found: evaluation.LogLikelihood, num_samples: int) -> None:
    """Warn the caller's caller of rows with k̂ above 0.7, or if there is no k̂."""
    warn_of_tail(
        owner,
        found.pareto_k,
        f"num_samples={num_samples}",
        "log p and its standard error",
        f"take more than num_samples={num_samples}, or, where few cells are observed, train with "
        f"cell_dropout",
        stacklevel=4,
    )
