"""A whole training step as one function, for loops of your own."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import Optimizer

from ppl_vae.buffers import MovingBuffers
from ppl_vae.compilation import preserved
from ppl_vae.data import Part
from ppl_vae.deprecation import renamed_argument
from ppl_vae.errors import describe
from ppl_vae.evaluation.signature import Signature
from ppl_vae.process_state import exclusively
from ppl_vae.protocols import ModelAndGuide, check_pair
from ppl_vae.random_state import generators
from ppl_vae.training.arguments import check_kind, checked_estimator
from ppl_vae.training.compiled_objective import CompiledObjective
from ppl_vae.training.deferred_checks import DeferredChecks, StepRecord
from ppl_vae.training.distributed import DataShard, shard
from ppl_vae.training.fabric import avoid_gpu_search
from ppl_vae.training.nan_tracing import NotFiniteError, find_origin
from ppl_vae.training.objective import TrainingObjective
from ppl_vae.training.parameters import OptimizerCoverage, Parameters
from ppl_vae.training.precision import MIXED, check_mixed, check_precision
from ppl_vae.training.schedules import Scheduled

_OWNER = "compile_step"


@renamed_argument("optimiser", "optimizer")
def compile_step(
    pair: ModelAndGuide,
    estimator: ELBO,
    optimizer: Optimizer,
    *,
    prepare: Callable[..., Any] | None = None,
    precision: str | None = None,
) -> Callable[..., Tensor]:
    r"""Return a function that takes one training step: one compiled graph, then the optimiser.

    ``step(*inputs, **named)`` runs model and guide, differentiates, lets the optimiser step, and
    returns minus the bound, a 0-dimensional tensor in nats per datum (weighted by β and the weights
    of parts, where there are any). The ``step`` of a ``KLWeighted`` or ``TemperatureScheduled``
    estimator advances by one per call, however many parts there are.

    The parameters that require a gradient at the call are trained; the optimiser must have them. If
    a loss or gradient is not finite, an error is raised and the step is not taken. On a GPU a fused
    optimiser skips it and the steps that follow, and the error comes within 10 steps.

    The programs run once, for tracing; afterwards Pyro's effect handlers cost nothing. See
    :class:`ppl_vae.compilation.CompiledFunction` for which changes of programs are noticed. The
    first step is compared with the uncompiled one. If it cannot be compiled, there is a warning,
    and steps run uncompiled.

    Args:
        pair: any object whose ``model`` and ``guide`` are modules.
        estimator: any ``pyro.infer.ELBO`` with a ``differentiable_loss``.
        optimizer: any of ``torch.optim`` for the pair's parameters; ``fused=True`` is fastest.
        prepare: returns the programs' arguments, a tuple of tensors or of
            :class:`ppl_vae.data.Part`, for a step's inputs, and is compiled, too. By default the
            inputs are the arguments, ``step(x, mask=mask)``. Labels must be inputs, since graphs
            depend on whether some are missing.
        precision: ``"bf16-mixed"`` has the matrix products and convolutions of networks computed in
            bfloat16, forward and backward; see :mod:`ppl_vae.training.precision`. By default, all
            is computed in the pair's own precision.

    Raises:
        NotFiniteError: by a step, if its loss or a gradient is not finite; weights, buffers and the
            estimator's ``step`` are unchanged.
        TypeError: by a step, if an input is not a tensor, or ``prepare`` returns something else.
        ValueError: by a step, if the inputs are not the programs' arguments; if the optimiser lacks
            a parameter that is to be trained or has one that the pair never had, or there is none;
            if β, a learning rate or the weight of a part is not finite or below 0; if the precision
            is mixed and the pair's weights are not in float32. Nothing has changed then.

    Warns:
        UserWarning: by the first step, if the precision is mixed and the device has no arithmetic
            in bfloat16.

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
        raise TypeError(f"{_OWNER}: prepare must be a function, got {describe(prepare)}")
    check_precision(_OWNER, precision)
    return _Step(pair, checked_estimator(_OWNER, estimator), optimizer, prepare, precision)


class _Step:
    def __init__(
        self,
        pair: ModelAndGuide,
        estimator: ELBO,
        optimizer: Optimizer,
        prepare: Callable[..., Any] | None,
        precision: str | None,
    ) -> None:
        avoid_gpu_search()
        self._pair = pair
        self._scheduled = Scheduled(estimator)
        self._optimizer = optimizer
        self._prepare = prepare
        self._mixed = precision == MIXED
        self._context: Callable[[], AbstractContextManager] = nullcontext
        by_name = "it by name, step(x, mask=mask)"
        self._signature = Signature(_OWNER, pair.model, pair.guide, by_name=by_name)
        self._names: tuple[str, ...] = ()
        self._objectives: tuple[TrainingObjective, CompiledObjective, MovingBuffers] | None = None
        self._coverage = OptimizerCoverage(optimizer, _OWNER)
        self._deferred: DeferredChecks | None = None
        self._steps = 0

    def __call__(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Take a step, and return its loss in nats per datum."""
        with exclusively():
            # Sorted, so that their order in the call needs no other graph.
            self._names = tuple(sorted(named))
            return self._take(*inputs, *(named[name] for name in self._names))

    def _take(self, *inputs: Tensor) -> Tensor:
        if not inputs:
            raise TypeError(f"{_OWNER}: a step needs a tensor as its input, got none")
        for value in inputs:
            if not isinstance(value, Tensor):
                raise TypeError(f"{_OWNER}: a step's inputs must be tensors, got {describe(value)}")
        self._scheduled.at_own_steps()
        objective, compiled, moving = self._initialised(inputs)
        self._coverage.check_rates()
        before = generators(inputs[0].device)
        with ExitStack() as on_error, pyro.validation_enabled(False):

            def check(parameters: Parameters) -> None:
                self._coverage.check(parameters)
                on_error.callback(moving.snapshot(compiled.guards))

            loss, _ = compiled(*inputs, constants=self._names, check=check)
            restore_buffers = on_error.pop_all().close
        moving.update()
        given = (self._names, inputs)
        total = loss.detach() + self._check_sum(compiled.parameters)
        record = StepRecord(self._steps, given, before, restore_buffers, loss, total)
        self._scheduled.advance(1)
        self._steps += 1
        if self._deferred is not None:
            self._deferred.step(record)
        elif math.isfinite(total.item()):
            self._optimizer.step()
        else:
            compiled.parameters.free_gradients()
            raise self._not_finite(objective, record)
        if self._deferred is not None and self._deferred.due:
            failure = self._deferred.first_failure()
            if failure is not None:
                raise self._not_finite(objective, failure)
        return loss

    def _check_sum(self, parameters: Parameters) -> Tensor:
        """Return a number that is finite only if all gradients are."""
        gradients = parameters.gradients()
        if self._deferred is None and gradients:
            # In half the time of a norm; finite gradients, too, may have a sum that overflows.
            total = torch.stack([gradient.sum() for gradient in gradients]).sum()
            if math.isfinite(total.item()):
                return total
        return parameters.gradient_norm()

    def _initialised(
        self, inputs: tuple[Tensor, ...]
    ) -> tuple[TrainingObjective, CompiledObjective, MovingBuffers]:
        """Return the objective, compiled too, and its buffers; made at the first step."""
        if self._objectives is None:
            programs = {"model": self._pair.model, "guide": self._pair.guide}
            device = inputs[0].device
            with preserved({**programs, "prepare": self._prepare}):
                first = self._shard(*inputs).parts[0]
                objective = TrainingObjective(self._pair, self._scheduled, first)
            self._coverage.check(Parameters(objective))
            if self._mixed:
                check_mixed(_OWNER, objective, device, depth=2)
                self._context = partial(torch.autocast, device.type, torch.bfloat16)
            compiled = CompiledObjective(
                objective, self._shard, prepare=self._prepare, context=self._context
            )
            self._objectives = objective, compiled, MovingBuffers(objective)
            if DeferredChecks.supports(self._optimizer, device):
                self._deferred = DeferredChecks(self._optimizer)
        return self._objectives

    def _not_finite(self, objective: TrainingObjective, record: StepRecord) -> NotFiniteError:
        """Undo a step and those after it, and return the error that says why it failed."""
        self._names, inputs = record.inputs
        record.restore_buffers()
        self._scheduled.advance(record.step - self._steps)
        self._steps = record.step
        self._scheduled.at_own_steps()

        def forward() -> Tensor:
            with self._context():
                return objective(self._shard(*inputs))[0]

        found = find_origin(objective, record.generators, forward, record.loss)
        return NotFiniteError(record.step, found, owner=_OWNER)

    def _shard(self, *inputs: Tensor) -> DataShard:
        """Return the programs' arguments; the last inputs are those with names."""
        number = len(inputs) - len(self._names)
        named = dict(zip(self._names, inputs[number:], strict=True))
        if self._prepare is None:
            parts: Any = (self._signature.part("data", inputs[:number], named),)
        else:
            parts = self._prepare(*inputs[:number], **named)
            if not isinstance(parts, tuple) or not any(
                parts and all(isinstance(value, kind) for value in parts) for kind in (Tensor, Part)
            ):
                expected = "a tuple of tensors or of data.Part"
                raise TypeError(f"{_OWNER}: prepare must return {expected}, got {describe(parts)}")
            parts = self._signature.of(parts)
        for part in parts:
            weight = part.weight
            if not isinstance(weight, Tensor) and not 0 <= weight < math.inf:
                name = f"the weight of part {part.name!r}"
                raise ValueError(
                    f"{_OWNER}: {name} must be finite and at least 0, got {describe(weight)}"
                )
        return shard(parts)
