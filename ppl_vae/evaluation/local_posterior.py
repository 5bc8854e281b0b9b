"""Posteriors of single data, by optimising the outputs of the guide's networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.conditional import NeuralConditional
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.estimators.traces import sample_sites
from ppl_vae.evaluation.latents import run_latents
from ppl_vae.evaluation.traced_batch import TracedBatch, row_limit
from ppl_vae.protocols import ModelAndGuide

PARTICLES = 10
"""Draws per datum and step of the optimisation."""


class LocalPosterior:
    """The optimisation of each datum's posterior, started at the amortised one."""

    def __init__(self, owner: str, guide: nn.Module, batch: TracedBatch) -> None:
        self._owner = owner
        self.guide = guide
        self.parts = [m for m in guide.modules() if isinstance(m, NeuralConditional)]
        self.batch = batch
        # The mean of several ELBOs of one particle.
        self.estimator = ImportanceWeightedELBO(1, "stl", num_groups=PARTICLES)
        self.outputs = self._recorded()

    def optimised(self, steps: int, learning_rate: int | float, bar: Any) -> Callable:
        """Return a guide with the optimised posteriors in place of the amortised ones."""
        local = {part: out.clone().requires_grad_() for part, out in self.outputs.items()}
        guide = self._guide_with(lambda part, *_: local[part])
        optimizer = torch.optim.Adam(local.values(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        for _ in range(steps):
            loss = self.estimator.differentiable_loss(*self._programs(guide), **self.batch.kwargs)
            gradients = torch.autograd.grad(loss, list(local.values()))
            for tensor, gradient in zip(local.values(), gradients, strict=True):
                tensor.grad = gradient
            optimizer.step()
            schedule.step()
            bar.update(len(self.batch))
        return guide

    def elbo(self, guide: Callable, num_samples: int) -> Tensor:
        """Return the ELBO of each datum in nats, in float64, shape ``(B,)``."""
        at_once = self.draws_at_once()
        total = torch.zeros((), dtype=torch.float64)
        for start in range(0, num_samples, at_once):
            number = min(at_once, num_samples - start)
            elbo = ImportanceWeightedELBO(1, num_groups=number)
            values = elbo.per_datum(*self._programs(guide), **self.batch.kwargs)
            total = total + number * values.double()
        return total / num_samples

    def _programs(self, guide: Callable) -> tuple[Any, ...]:
        """Return the positional arguments of an estimator."""
        return self.batch.model, guide, *self.batch.args

    def draws_at_once(self) -> int:
        """Return how many draws of all data go through the networks at once."""
        rows = row_limit(self.batch.args[0])
        return max(1, rows // (len(self.batch) * self.batch.combinations))

    def _recorded(self) -> dict[NeuralConditional, Tensor]:
        """Return the outputs of the guide's networks for the batch."""
        outputs: dict[NeuralConditional, Tensor] = {}

        def record(part: NeuralConditional, *context: Tensor) -> Tensor:
            outputs[part] = type(part).outputs(part, *context)
            return outputs[part]

        self.estimator.per_datum(*self._programs(self._guide_with(record)), **self.batch.kwargs)
        return {part: out.detach() for part, out in outputs.items()}

    def _guide_with(self, outputs: Callable[..., Tensor]) -> Callable:
        """Return the guide with ``outputs(part, *context)`` in place of its networks' outputs.

        Only while it runs, since the model of a VampPrior uses the same posterior.
        """

        def guide(*args: Any, **kwargs: Any) -> None:
            with _replaced(self._owner, self.parts, outputs):
                self.guide(*args, **kwargs)

        return guide


@contextmanager
def _replaced(
    owner: str, parts: list[NeuralConditional], outputs: Callable[..., Tensor]
) -> Iterator[None]:
    """Replace the method ``outputs`` of each part, which may be called once in a run."""
    called: set[NeuralConditional] = set()

    def stand_in(part: NeuralConditional, *context: Tensor) -> Tensor:
        if part in called:
            raise NotImplementedError(
                f"{owner}: the guide must call its {type(part).__name__} only once"
            )
        called.add(part)
        return outputs(part, *context)

    try:
        for part in parts:
            part.__dict__["outputs"] = partial(stand_in, part)
        yield
    finally:
        for part in parts:
            part.__dict__.pop("outputs", None)


@torch.no_grad()
def check_local(owner: str, pair: ModelAndGuide, batch: TracedBatch) -> None:
    """Raise an error unless the guide has one continuous latent and a posterior to optimise."""
    latents = run_latents(owner, pair, batch.args, batch.kwargs)
    if len(latents) > 1:
        raise NotImplementedError(
            f"{owner}: only one continuous latent per datum is supported, got {', '.join(latents)}"
        )
    for site in sample_sites(batch.guide_trace):
        drawn = not (site["is_observed"] or "enumerate" in site["infer"])
        kind = type(getattr(site["fn"], "base_dist", site["fn"])).__name__
        if drawn and (kind == "Delta" or not site["fn"].has_rsample):
            advice = "elbo_terms and log_likelihood, or posterior_draws with refine='importance'"
            if kind == "Delta":  # whose importance weights say nothing
                advice = "elbo_terms"
            raise NotImplementedError(
                f"{owner}: a posterior whose draws have no gradient is not optimised, but site "
                f"{site['name']!r} of the guide is {kind}; use {advice}"
            )
    posterior = getattr(pair.guide, "posterior", None)
    if not isinstance(posterior, NeuralConditional):
        raise TypeError(
            f"{owner}: guide.posterior must be a NeuralConditional, such as those of "
            f"ppl_vae.posteriors, got {type(posterior).__name__}"
        )
