"""Bounds on log p(x) of a data set and their terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ppl_vae.errors import flag, positive_int, sizes
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.estimators.training_terms import without_training_terms
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.inputs import (
    Array,
    Data,
    check_all_data,
    input_blocks,
    program_inputs,
    progress_bar,
)
from ppl_vae.evaluation.results import Result
from ppl_vae.evaluation.unscaled import Unscaled
from ppl_vae.models.imputation import MAX_ROWS
from ppl_vae.module_modes import evaluating
from ppl_vae.protocols import ModelAndGuide


@dataclass(frozen=True, repr=False)
class ELBOTerms(Result):
    """NELBO = reconstruction + KL, in nats per datum, as means over data.

    Args:
        nelbo: -E_q [log p(x, z) - log q(z | x)].
        reconstruction: -E_q [log p(x | z)], or -E_q [log p(x | z, y)].
        kl: E_q [log q(z | x) - log p(z)], plus KL(q(y | x) ‖ p(y)), which is -log p(y) for a given
            label. In your own programs y is any observed site marked
            ``infer={"enumerate": "parallel"}``; all others are x.
    """

    nelbo: Estimate
    reconstruction: Estimate
    kl: Estimate

    def _rows(self) -> dict[str, object]:
        return {
            "NELBO": f"{self.nelbo} nats per datum",
            "reconstruction": self.reconstruction,
            "KL": self.kl,
        }


@torch.no_grad()
def elbo_terms(
    pair: ModelAndGuide,
    x: Data,
    *context: Array,
    mask: Array | None = None,
    num_samples: int = 1,
    progress: bool = False,
) -> ELBOTerms:
    """Estimate the ELBO and its terms by Monte Carlo, latent labels summed exactly.

    Args:
        pair: any model/guide pair.
        x: the data: a `ppl_vae.data.Dataset`, whose grey values are binarised once if the
            likelihood is of 0 and 1; batches; or a tensor or array as it is, ``(N, *event)``.
        context: further arguments of the programs, such as labels, of N entries each.
        mask: boolean, of x's shape, True where x is observed; everything if not given.
        num_samples: draws z ~ q(z | x) per datum.
        progress: show a progress bar.

    Returns:
        The terms in nats per datum; ``nelbo`` is the mean of what ``Trace_ELBO``, or
        ``TraceEnum_ELBO``, estimates.

    Raises:
        TypeError: if x is of another kind.
        ValueError: if x, context or mask are incompatible with the pair, or a site is scaled.
        NotImplementedError: if the pair enumerates a latent in the model alone.
    """
    owner = "elbo_terms"
    num_samples = positive_int(owner, "num_samples", num_samples)
    estimator = ImportanceWeightedELBO(num_samples)
    nelbo, reconstruction = [], []
    inputs = program_inputs(owner, pair, x, context, mask)
    model, guide = map(Unscaled(owner), without_training_terms(pair.model, pair.guide))
    bar = progress_bar(owner, "ELBO", len(inputs), progress)
    with bar, evaluating(pair.model, pair.guide):
        for args, kwargs in input_blocks(inputs, max(1, MAX_ROWS // num_samples), bar):
            weights = estimator.log_weights(model, guide, *args, **kwargs)
            if weights.log_likelihood is None:
                raise NotImplementedError(
                    f"{owner}: likelihood and KL cannot be separated if a latent is enumerated in "
                    f"the model alone; sample it in the guide"
                )
            nelbo.append(-weights.elbo())
            check_all_data(owner, len(nelbo[-1]), len(args[0]))
            reconstruction.append(-weights.mean_over_particles(weights.log_likelihood))
    loss, error = torch.cat(nelbo), torch.cat(reconstruction)
    return ELBOTerms(Estimate.of(loss), Estimate.of(error), Estimate.of(loss - error))


@torch.no_grad()
def importance_bounds(
    pair: ModelAndGuide,
    x: Data,
    *context: Array,
    mask: Array | None = None,
    num_particles: Sequence[int] = (1, 10, 100, 1000),
    progress: bool = False,
) -> dict[int, Estimate]:
    """Estimate the importance-weighted bound -L_K for several K, in nats per datum.

    -L_K falls with K towards -log p(x) (Burda et al. 2016, arXiv 1509.00519, theorem 1). K = 1 is
    the NELBO of :func:`elbo_terms`, at other draws, from which it differs by noise.

    Args:
        pair: any model/guide pair.
        x, context, mask: the data, as in :func:`elbo_terms`.
        num_particles: the values of K.
        progress: show a progress bar.

    Raises:
        TypeError: if x is of another kind.
        ValueError: if x, context or mask are incompatible with the pair, a site is scaled, or a K
            is below 1.
    """
    owner = "importance_bounds"
    progress = flag(owner, "progress", progress)
    numbers = sizes(owner, "num_particles", num_particles)
    bounds = {}
    inputs = program_inputs(owner, pair, x, context, mask)
    model, guide = map(Unscaled(owner), without_training_terms(pair.model, pair.guide))
    with evaluating(pair.model, pair.guide):
        for k in numbers:
            estimator = ImportanceWeightedELBO(k)
            values = []
            with progress_bar(owner, f"IWAE-{k}", len(inputs), progress) as bar:
                for args, kwargs in input_blocks(inputs, max(1, MAX_ROWS // k), bar):
                    values.append(-estimator.per_datum(model, guide, *args, **kwargs))
                    check_all_data(owner, len(values[-1]), len(args[0]))
            bounds[k] = Estimate.of(torch.cat(values))
    return bounds
