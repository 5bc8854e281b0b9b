"""A whole training step as one function, for loops of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer

from ppl_vae.data import Part
from ppl_vae.errors import describe
from ppl_vae.evaluation.bounds import ModelAndGuide
from ppl_vae.randomness import restored
from ppl_vae.training.arguments import checked_estimator
from ppl_vae.training.compiled import CompiledObjective
from ppl_vae.training.distributed import Processes, Share
from ppl_vae.training.launch import no_search_for_gpus
from ppl_vae.training.objective import Objective
from ppl_vae.training.schedules import Scheduled
from ppl_vae.turns import exclusively


def compile_step(
    pair: ModelAndGuide,
    estimator: ELBO,
    optimiser: Optimizer,
    *,
    prepare: Callable[..., Any] | None = None,
) -> Callable[..., Tensor]:
    r"""Return a function that takes one training step, compiled to one graph and the optimiser.

    ``step(*inputs)`` draws, runs model and guide, differentiates, lets the optimiser step, and
    returns minus the bound, a 0-dimensional tensor in nats per datum (with the weights of β and of
    parts, where there are). A ``KLWeighted`` estimator goes on by one step at each call.

    The programs run once, while they are traced; what runs afterwards is a compiled graph, and
    Pyro's effect handlers cost nothing. What is noticed and what is not when programs change is
    said of :class:`ppl_vae.compilation.Compiled`. The first step is held against the uncompiled
    one. Where it cannot be compiled, a warning says so, and steps are uncompiled.

    Args:
        pair: any object whose ``model`` and ``guide`` are modules.
        estimator: any ``pyro.infer.ELBO`` with a ``differentiable_loss``.
        optimiser: any of ``torch.optim``, of the pair's parameters; ``fused=True`` is fastest.
        prepare: returns the programs' arguments, a tuple of tensors or of
            :class:`ppl_vae.data.Part`, of a step's inputs; it is compiled, too. The inputs are the
            arguments if not given. Labels must be inputs: whether some are missing is looked at.

    Example:
        >>> import torch
        >>> from ppl_vae import VAE, data, estimators, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(64, 4)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 64)),
        ... )
        >>> grey = data.load("digits").draw(torch.arange(1437), binarise="none")
        >>> step = compile_step(
        ...     vae,
        ...     estimators.AnalyticKLELBO(),
        ...     torch.optim.Adam(vae.parameters(), fused=True),
        ...     prepare=lambda index: (torch.bernoulli(grey[index]),),
        ... )
        >>> loss = step(torch.randint(1437, (100,)))  # doctest: +SKIP
    """
    return _Step(pair, checked_estimator(estimator), optimiser, prepare)


class _Step:
    def __init__(
        self,
        pair: ModelAndGuide,
        estimator: ELBO,
        optimiser: Optimizer,
        prepare: Callable[..., Any] | None,
    ) -> None:
        no_search_for_gpus()
        self._pair = pair
        self._scheduled = Scheduled(estimator, None, None, None)
        self._optimiser = optimiser
        self._prepare = prepare
        self._objective: CompiledObjective | None = None
        self._taken = 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Take a step, and return its loss in nats per datum."""
        with exclusively():
            return self._take(*inputs)

    def _take(self, *inputs: Tensor) -> Tensor:
        if self._objective is None:
            with restored():
                first = self._share(*inputs).parts[0].args
                objective = Objective(self._pair, self._scheduled, first)
            self._objective = CompiledObjective(objective, self._share)
        self._scheduled.at(self._taken)
        with pyro.validation_enabled(False):
            loss, _ = self._objective(*inputs)
        self._optimiser.step()
        self._taken += 1
        return loss

    def _share(self, *inputs: Tensor) -> Share:
        parts: Any = inputs if self._prepare is None else self._prepare(*inputs)
        if not isinstance(parts, tuple) or not parts:
            raise TypeError(
                f"compile_step: prepare must return a tuple of tensors or of data.Part, got "
                f"{describe(parts)}"
            )
        if not isinstance(parts[0], Part):
            parts = (Part("data", parts),)
        return Processes().share(parts)
