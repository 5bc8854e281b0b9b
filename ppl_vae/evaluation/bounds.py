"""Bounds on log p(x) of a data set and what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from ppl_vae.errors import flag, positive_int, sizes
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.evaluation.arguments import Arguments, Array, Data, arguments
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.models.training_term import WithoutTrainingTerms
from ppl_vae.module_modes import evaluating
from ppl_vae.protocols import ModelAndGuide, check_pair

MAX_ROWS = 20_000
"""How many rows (data times particles) go through the networks at once; bounds the memory."""


@dataclass(frozen=True)
class ELBOTerms:
    """NELBO = reconstruction + KL, in nats per datum, as means over data.

    Args:
        nelbo: -E_q [log p(x, z) - log q(z | x)].
        reconstruction: -E_q [log p(x | z)], or -E_q [log p(x | z, y)].
        kl: E_q [log q(z | x) - log p(z)], and that of y: KL(q(y | x) ‖ p(y)), which for a given
            label, on which all of q(y) is, is -log p(y). In a program of your own an observed site
            marked ``infer={"enumerate": "parallel"}`` is such a y; all others are x.
    """

    nelbo: Estimate
    reconstruction: Estimate
    kl: Estimate


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
        x: the data: a `ppl_vae.data.Dataset`, whose grey values are binarised once where the
            likelihood is of 0 and 1; batches; or a tensor or array as it is, ``(N, *event)``.
        context: further arguments of the programs, such as labels, of N entries each.
        mask: boolean, of x's shape, True where x is observed; everything if not given.
        num_samples: draws z ~ q(z | x) per datum.
        progress: show a progress bar.

    Returns:
        The terms in nats per datum; ``nelbo`` is the mean of what ``Trace_ELBO``, or
        ``TraceEnum_ELBO``, estimates.

    Raises:
        TypeError: if x is no such data.
        ValueError: if x, or what comes with it, does not suit the pair.
        NotImplementedError: if the pair enumerates a latent in the model alone.
    """
    check_pair("elbo_terms", pair)
    num_samples = positive_int("elbo_terms", "num_samples", num_samples)
    progress = flag("elbo_terms", "progress", progress)
    estimator = ImportanceWeightedELBO(num_samples)
    nelbo, reconstruction = [], []
    model, guide = scored(pair.model, pair.guide)
    given = arguments("elbo_terms", pair, x, context, mask)
    with evaluating(pair.model, pair.guide):
        label = "ELBO" if progress else None
        for args, kwargs in _batches(given, num_samples, label):
            weights = estimator.log_weights(model, guide, *args, **kwargs)
            if weights.log_likelihood is None:
                raise NotImplementedError(
                    "elbo_terms: a latent is enumerated in the model alone, so that the likelihood "
                    "and the KL cannot be told apart; sample it in the guide"
                )
            nelbo.append(-weights.elbo())
            check_all_data("elbo_terms", len(nelbo[-1]), len(args[0]))
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

    -L_K falls with K towards -log p(x) (Burda et al. 2016, arXiv 1509.00519, theorem 1). That of
    K = 1 is the NELBO of :func:`elbo_terms`, at draws of its own: beside that one, as in a table of
    both, leave it out, since the two differ by their noise.

    Args:
        pair: any model/guide pair.
        x: the data: a `ppl_vae.data.Dataset`, whose grey values are binarised once where the
            likelihood is of 0 and 1; batches; or a tensor or array as it is, ``(N, *event)``.
        context: further arguments of the programs, such as labels, of N entries each.
        mask: boolean, of x's shape, True where x is observed; everything if not given.
        num_particles: the values of K.
        progress: show a progress bar.

    Raises:
        TypeError: if x is no such data.
        ValueError: if x, or what comes with it, does not suit the pair, or a K is below 1.
    """
    owner = "importance_bounds"
    check_pair(owner, pair)
    progress = flag(owner, "progress", progress)
    numbers = sizes(owner, "num_particles", num_particles)
    bounds = {}
    model, guide = scored(pair.model, pair.guide)
    given = arguments("importance_bounds", pair, x, context, mask)
    with evaluating(pair.model, pair.guide):
        for k in numbers:
            estimator = ImportanceWeightedELBO(k)
            values = []
            label = f"IWAE-{k}" if progress else None
            for args, kwargs in _batches(given, k, label):
                values.append(-estimator.per_datum(model, guide, *args, **kwargs))
                check_all_data("importance_bounds", len(values[-1]), len(args[0]))
            bounds[k] = Estimate.of(torch.cat(values))
    return bounds


def scored(model: Callable, guide: Callable) -> tuple[Callable, Callable]:
    """Return a pair's programs as what is evaluated: without terms that only training has.

    These are observed sites that are marked ``infer={"training_term": True}``, such as the
    classification term of a semi-supervised VAE, which is no part of log p(x, y).
    """
    without = WithoutTrainingTerms()
    return without(model), without(guide)


def check_all_data(owner: str, found: int, given: int) -> None:
    """Raise ValueError unless programs take all the data that they are given."""
    if found != given:
        raise ValueError(
            f"{owner}: the programs were given {given} data and have {found} in their batch plate; "
            f"evaluate programs that take all of x, without subsample_size"
        )


def _batches(
    given: Arguments, rows_per_datum: int, label: str | None
) -> Iterator[tuple[tuple[Tensor, ...], Mapping[str, Tensor]]]:
    """Yield the programs' arguments for some of the data at a time."""
    size = max(1, MAX_ROWS // rows_per_datum)
    with tqdm(total=len(given), desc=label, disable=label is None, leave=False, unit="x") as bar:
        for start in range(0, len(given), size):
            some = given.rows(slice(start, start + size))
            yield some.args, some.kwargs
            bar.update(len(some))
