"""The gap between log p(x) and the ELBO: approximation and amortisation."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.errors import describe, number, positive_int
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.gradients import gradients_possible
from ppl_vae.evaluation.hmc import remedies
from ppl_vae.evaluation.inputs import Array, Data, program_inputs, progress_bar
from ppl_vae.evaluation.latents import check_finite
from ppl_vae.evaluation.likelihood import LogLikelihood, log_likelihood
from ppl_vae.evaluation.local_posterior import PARTICLES, LocalPosterior, check_local
from ppl_vae.evaluation.pareto import warn_of_tail
from ppl_vae.evaluation.results import Result
from ppl_vae.evaluation.traced_batch import traced_batches
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import seeded
from ppl_vae.protocols import ModelAndGuide


@dataclass(frozen=True, repr=False)
class InferenceGap(Result):
    """log p(x) - L[q] = (log p(x) - L[q*]) + (L[q*] - L[q]), in nats, shape ``(N,)`` each.

    Args:
        log_px: log p(x).
        best_elbo: L[q*], the ELBO of the best posterior of the family for each datum.
        elbo: L[q], the ELBO of the amortised posterior.
    """

    log_px: Float[Tensor, " batch"]
    best_elbo: Float[Tensor, " batch"]
    elbo: Float[Tensor, " batch"]

    @property
    def total(self) -> Estimate:
        """log p(x) - L[q] = KL(q(z|x) ‖ p(z|x)), the sum of the others."""
        return Estimate.of(self.log_px - self.elbo)

    @property
    def approximation(self) -> Estimate:
        """log p(x) - L[q*]: the most that a richer family of posteriors can gain."""
        return Estimate.of(self.log_px - self.best_elbo)

    @property
    def amortisation(self) -> Estimate:
        """L[q*] - L[q]: the most that a better network can gain."""
        return Estimate.of(self.best_elbo - self.elbo)

    def _rows(self) -> dict[str, object]:
        return {
            "inference gap": f"{self.total} nats per datum over {len(self.elbo)} data",
            "approximation": self.approximation,
            "amortisation": self.amortisation,
        }

    def __str__(self) -> str:
        return (
            f"inference gap {self.total} nats: approximation {self.approximation}, "
            f"amortisation {self.amortisation}"
        )


def inference_gap(
    pair: ModelAndGuide,
    x: Data,
    *context: Array,
    mask: Array | None = None,
    log_px: Float[Tensor, " batch"] | None = None,
    importance_samples: int = 5000,
    steps: int = 1000,
    learning_rate: int | float = 0.02,
    num_samples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> InferenceGap:
    r"""Split the gap between log p(x) and the ELBO into approximation and amortisation.

    q* is found for each datum by optimising the outputs of the posterior's network with Adam,
    starting from their amortised values: the family is exactly the posterior's, and the pair is not
    changed. A flow's own transformations are part of the family and stay fixed. For unobserved
    labels q(y|x) is optimised likewise.

    The gradient is that of the ELBO at 10 fresh draws per step, without the score term (Roeder et
    al. 2017, arXiv 1703.09194), with a cosine schedule of the learning rate. L[q*] and L[q] are
    then evaluated at new draws with common noise. Gaps are not clipped, and may be negative by the
    error of the optimisation and the noise. The former is small: a full-rank posterior converges to
    an exact one to 1e-5 nats in 300 steps.

    log p(x) is estimated by importance sampling from q*: log p̂(x) then lies between L[q*] and
    log p(x) in expectation, while from a poor q it could be below L[q*]. The approximation gap
    is underestimated by as much as log p(x) is.

    Source: Cremer et al. 2018 (arXiv 1801.03558), table 1.

    Args:
        pair: any model/guide pair with one continuous latent whose guide holds its posterior as a
            :class:`ppl_vae.conditional.NeuralConditional`.
        x, context, mask: the data, as in :func:`ppl_vae.evaluation.elbo_terms`; some hundreds
            suffice, each taking 10 ``steps`` evaluations of the likelihood's network and its
            gradient.
        log_px: log p(x) in nats, shape ``(N,)``, if known more accurately, for instance by
            :func:`ppl_vae.evaluation.annealed_importance_sampling`.
        importance_samples: draws from q* per datum for log p(x), if it is not given.
        steps: of the optimisation.
        learning_rate: initial one of Adam; an output can move by about half of it times ``steps``.
        num_samples: draws per datum for each of the two ELBOs.
        seed: of all draws; the global random state is unchanged.
        progress: show a progress bar.

    Warns:
        UserWarning: with the number of data whose Pareto k̂ > 0.7, for which log p(x) is too low,
            or if there is no k̂, with fewer than 25 ``importance_samples``.

    Raises:
        TypeError: if the guide has no such posterior.
        ValueError: if x is incompatible with the pair, or ``log_px`` is not finite.
        NotImplementedError: if the pair has several continuous latents, or the posterior's draws
            are not reparameterised.
    """
    owner = "inference_gap"
    steps = positive_int(owner, "steps", steps)
    num_samples = positive_int(owner, "num_samples", num_samples)
    importance_samples = positive_int(owner, "importance_samples", importance_samples)
    learning_rate = number(owner, "learning_rate", learning_rate, least=0)
    inputs = program_inputs(owner, pair, x, context, mask)
    if log_px is not None:
        if not isinstance(log_px, Tensor):
            raise TypeError(f"{owner}: log_px must be a tensor, got {describe(log_px)}")
        if log_px.shape != (len(inputs),):
            expected = f"log_px must have an entry for each of the {len(inputs)} data"
            raise ValueError(f"{owner}: {expected}, got {describe(log_px)}")
        check_finite(owner, "log_px", log_px)
    elbos: list[list[Tensor]] = []
    sampled: list[LogLikelihood] = []
    bar = progress_bar(owner, "inference gap", len(inputs) * steps, progress, "step")
    with (
        bar,
        gradients_possible(owner, pair),
        torch.enable_grad(),
        evaluating(pair.model, pair.guide),
        seeded(owner, seed),
    ):
        for batch in traced_batches(owner, pair, inputs, PARTICLES):
            check_local(owner, pair, batch)
            search = LocalPosterior(owner, pair.guide, batch)
            local = search.optimised(steps, learning_rate, bar)
            fresh = int(torch.randint(2**62, ()))
            elbos.append([])
            for guide in (local, pair.guide):
                with seeded(owner, fresh):
                    elbos[-1].append(search.elbo(guide, num_samples))
            if log_px is None:
                sampled.append(_log_likelihood(search, local, importance_samples, fresh))
    best_elbo, elbo = map(torch.cat, zip(*elbos, strict=True))
    check_finite(owner, "the ELBO of the locally optimised posterior", best_elbo)
    check_finite(owner, "the ELBO", elbo)
    if log_px is None:
        log_px = torch.cat([part.log_px for part in sampled])
        setting = f"importance_samples={importance_samples}"
        instead = "give log_px by annealed_importance_sampling"
        warn_of_tail(
            owner,
            torch.cat([part.pareto_k for part in sampled]),
            setting,
            "log p(x) and the approximation gap",
            remedies(batch, f"take more than {setting}", instead, "prior"),
        )
    return InferenceGap(log_px.detach().double(), best_elbo, elbo)


def _log_likelihood(
    search: LocalPosterior, guide: Callable, num_samples: int, seed: int
) -> LogLikelihood:
    """Return log p(x) of the batch by importance sampling from a guide."""
    batch = search.batch
    model, guide = (partial(program, **batch.kwargs) for program in (batch.model, guide))
    pair = _Pair(_AsModule(model), _AsModule(guide))
    chunk = search.draws_at_once()  # of the whole batch, which the guide is specific to
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="log_likelihood: Pareto")
        return log_likelihood(
            pair, *batch.args, num_samples=num_samples, seed=seed, chunk_size=chunk
        )


class _AsModule(nn.Module):
    """A function as a module."""

    def __init__(self, run: Callable) -> None:
        super().__init__()
        self.run = run

    def forward(self, *args: Any, **kwargs: Any) -> None:
        self.run(*args, **kwargs)


class _Pair(NamedTuple):
    model: nn.Module
    guide: nn.Module
