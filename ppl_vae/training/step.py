"""A whole training step as one function, for loops of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pyro
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer

from ppl_vae.buffers import Moving, kept_buffers
from ppl_vae.compilation import left_alone
from ppl_vae.data import Part
from ppl_vae.deprecation import renamed_argument
from ppl_vae.errors import describe
from ppl_vae.evaluation.signature import Signature
from ppl_vae.process_state import exclusively
from ppl_vae.protocols import ModelAndGuide, check_pair
from ppl_vae.random_state import generators, restored, set_generators
from ppl_vae.training.arguments import check_kind, checked_estimator
from ppl_vae.training.compiled import CompiledObjective
from ppl_vae.training.deferred_checks import Attempt, Lookout
from ppl_vae.training.distributed import Processes, Share
from ppl_vae.training.fabric import no_search_for_gpus
from ppl_vae.training.nan_tracing import NotFiniteError, origin
from ppl_vae.training.objective import Objective
from ppl_vae.training.parameters import (
    Holdings,
    Parameters,
    check_rates,
    gradients_of,
    total_norm,
)
from ppl_vae.training.schedules import Scheduled

_OWNER = "compile_step"


@renamed_argument("optimiser", "optimizer")
def compile_step(
    pair: ModelAndGuide,
    estimator: ELBO,
    optimizer: Optimizer,
    *,
    prepare: Callable[..., Any] | None = None,
) -> Callable[..., Tensor]:
    r"""Return a function that takes one training step, compiled to one graph and the optimiser.

    ``step(*inputs, **named)`` draws, runs model and guide, differentiates, lets the optimiser step,
    and returns minus the bound, a 0-dimensional tensor in nats per datum (with the weights of β and
    of parts, where there are). A ``KLWeighted`` estimator goes on from its ``step`` by one at each
    call, however many parts there are.

    Gradients go to the parameters that require them at the call. What does is to be held by the
    optimiser. A loss or gradient that is not finite is an error, and the step is not taken; on a
    GPU a fused optimiser skips it and those that follow, and the error comes within 10 steps.

    The programs run once, while they are traced; what runs afterwards is a compiled graph, and
    Pyro's effect handlers cost nothing. What is noticed and what is not when programs change is
    said of :class:`ppl_vae.compilation.Compiled`. The first step is held against the uncompiled
    one. Where it cannot be compiled, a warning says so, and steps are uncompiled. Learning rates
    that are not finite or below 0, as a schedule may leave them, are refused.

    Args:
        pair: any object whose ``model`` and ``guide`` are modules.
        estimator: any ``pyro.infer.ELBO`` with a ``differentiable_loss``.
        optimizer: any of ``torch.optim``, of the pair's parameters; ``fused=True`` is fastest.
        prepare: returns the programs' arguments, a tuple of tensors or of
            :class:`ppl_vae.data.Part`, of a step's inputs; it is compiled, too. The inputs are the
            arguments if not given, ``step(x, mask=mask)``. Labels must be inputs: whether some are
            missing is looked at.

    Raises:
        NotFiniteError: by a step, if its loss or a gradient is not finite; weights and buffers, and
            the estimator's ``step``, are those of before.
        TypeError: by a step, if an input is no tensor, or ``prepare`` returns something else.
        ValueError: by a step, if a program does not take something of the inputs, or needs
            something else; if the optimiser does not hold a parameter that is to be trained, or
            holds one that the pair never had; if there is none; if β, a learning rate or the weight
            of a part is not finite or below 0. Nothing has changed then.

    Example:
        >>> import torch
        >>> from ppl_vae import VAE, data, estimators, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(64, 4)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 64)),
        ... )
        >>> grey = data.load("digits").tensor()
        >>> step = compile_step(
        ...     vae,
        ...     estimators.AnalyticKLELBO(),
        ...     torch.optim.Adam(vae.parameters(), fused=True),
        ...     prepare=lambda index: (torch.bernoulli(grey[index]),),
        ... )
        >>> loss = step(torch.randint(1437, (100,)))  # doctest: +SKIP
    """
    check_pair(_OWNER, pair)
    check_kind(_OWNER, "optimizer", optimizer, Optimizer, "a torch.optim.Optimizer")
    if prepare is not None and not callable(prepare):
        raise TypeError(
            f"{_OWNER}: prepare must be a function of a step's inputs, got {describe(prepare)}"
        )
    return _Step(pair, checked_estimator(estimator, _OWNER), optimizer, prepare)


class _Step:
    def __init__(
        self,
        pair: ModelAndGuide,
        estimator: ELBO,
        optimizer: Optimizer,
        prepare: Callable[..., Any] | None,
    ) -> None:
        no_search_for_gpus()
        self._pair = pair
        self._scheduled = Scheduled(estimator, None, None, None)
        self._optimizer = optimizer
        self._prepare = prepare
        self._signature = Signature(
            _OWNER, pair.model, pair.guide, by_name="it by name, step(x, mask=mask)"
        )
        self._names: tuple[str, ...] = ()
        self._parts: tuple[Objective, CompiledObjective, Moving] | None = None
        self._holdings = Holdings(optimizer, _OWNER)
        self._lookout: Lookout | None = None
        self._taken = 0

    def __call__(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Take a step, and return its loss in nats per datum."""
        with exclusively():
            # In one order: it is one graph, however they are written.
            self._names = tuple(sorted(named))
            return self._take(*inputs, *(named[name] for name in self._names))

    def _take(self, *inputs: Tensor) -> Tensor:
        if not inputs:
            raise TypeError(f"{_OWNER}: a step needs a tensor as its input, got none")
        for value in inputs:
            if not isinstance(value, Tensor):
                raise TypeError(f"{_OWNER}: a step's inputs must be tensors, got {describe(value)}")
        self._scheduled.at_own_step()
        objective, compiled, moving = self._made(inputs)
        check_rates(_OWNER, self._optimizer)
        before = generators(inputs[0].device)
        with ExitStack() as undone, pyro.validation_enabled(False):

            def check(parameters: Parameters) -> None:
                self._holdings.check(parameters)
                undone.callback(moving.keep(compiled.state))

            loss, _ = compiled(*inputs, constants=self._names, check=check)
            put_back = undone.pop_all().close
        moving.look()
        norm = total_norm(gradients_of(compiled.parameters.trainable))
        given = (self._names, inputs)
        attempt = Attempt(self._taken, given, before, put_back, loss, loss.detach() + norm)
        self._scheduled.take_own_step()
        self._taken += 1
        if self._lookout is not None:
            self._lookout.step(attempt)
        elif math.isfinite(attempt.sum.item()):
            self._optimizer.step()
        else:
            compiled.parameters.forget_gradients()
            raise self._not_finite(objective, attempt)
        if self._lookout is not None and self._lookout.due:
            spoilt = self._lookout.first_spoilt()
            if spoilt is not None:
                raise self._not_finite(objective, spoilt)
        return loss

    def _made(self, inputs: tuple[Tensor, ...]) -> tuple[Objective, CompiledObjective, Moving]:
        if self._parts is None:
            programs = {"model": self._pair.model, "guide": self._pair.guide}
            with restored(), left_alone({**programs, "prepare": self._prepare}):
                first = self._share(*inputs).parts[0]
                objective = Objective(self._pair, self._scheduled, first)
            self._holdings.check(Parameters(objective))
            compiled = CompiledObjective(objective, self._share, prepare=self._prepare)
            self._parts = objective, compiled, Moving(objective)
            if Lookout.suits(self._optimizer, inputs[0].device):
                self._lookout = Lookout(self._optimizer)
        return self._parts

    def _not_finite(self, objective: Objective, attempt: Attempt) -> NotFiniteError:
        """Let all be as it was before an attempt, and return the error that says why it failed."""

        def rerun() -> Tensor:
            with restored(), kept_buffers(objective):
                set_generators(inputs[0].device, attempt.before)
                loss, _ = objective(self._share(*inputs))
            return loss

        self._names, inputs = attempt.inputs
        attempt.put_back()
        self._scheduled.take_back(self._taken - attempt.step)
        self._taken = attempt.step
        self._scheduled.at_own_step()
        found = origin(objective, rerun, attempt.loss)
        return NotFiniteError(attempt.step, found, owner=_OWNER)

    def _share(self, *inputs: Tensor) -> Share:
        """Return what the programs are called with; the last inputs are those with names."""
        number = len(inputs) - len(self._names)
        named = dict(zip(self._names, inputs[number:], strict=True))
        if self._prepare is None:
            parts: Any = (self._signature.part("data", inputs[:number], named),)
        else:
            parts = self._prepare(*inputs[:number], **named)
            if not isinstance(parts, tuple) or not any(
                parts and all(isinstance(value, kind) for value in parts) for kind in (Tensor, Part)
            ):
                raise TypeError(
                    f"{_OWNER}: prepare must return a tuple of tensors or of data.Part, got "
                    f"{describe(parts)}"
                )
            parts = self._signature.of(parts)
        for part in parts:
            weight = part.weight
            if not isinstance(weight, Tensor) and not 0 <= weight < math.inf:
                raise ValueError(
                    f"{_OWNER}: the weight of part {part.name!r} must be finite and at least 0, "
                    f"got {describe(weight)}"
                )
        return Processes().share(parts)
