"""A step's forward and backward pass as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ppl_vae.compilation import CompiledFunction
from ppl_vae.training.distributed import DataShard
from ppl_vae.training.objective import TrainingObjective
from ppl_vae.training.parameters import Parameters
from ppl_vae.training.precision import networks_only


class CompiledObjective:
    """An objective whose value and gradient come from a :class:`CompiledFunction`.

    β and the temperature are tensors to the graph and may change from step to step. ``make_shard``
    makes a step's data of its tensors, as part of the graph, and may call ``prepare``, a user's
    function. ``context`` makes a context for the objective, such as mixed precision.
    """

    def __init__(
        self,
        objective: TrainingObjective,
        make_shard: Callable[..., DataShard],
        *,
        prepare: object = None,
        context: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self._objective = objective
        self._make_shard = make_shard
        self._context = context
        self._scheduled: dict[tuple[str, torch.device], Tensor] = {}
        self._values: dict[str, Tensor] = {}
        self.guards: object = None
        """What programs held at the last call: one object while it holds; None if unknown."""
        self.parameters = Parameters(objective)
        """The objective's parameters at the last call."""
        self._compiled = CompiledFunction(
            self._step,
            {"model": objective.model, "guide": objective.guide},
            dependencies={**objective.scheduled.estimators, "prepare": prepare},
            ignored=objective.scheduled.changing,
            tracing_context=lambda: objective.scheduled.values_are(self._values),
            num_persistent=2,
            name="a training step",
        )

    @property
    def failed(self) -> bool:
        """Whether steps run uncompiled, after a warning."""
        return self._compiled.failed

    def __call__(
        self,
        *tensors: Tensor,
        constants: Hashable = (),
        check: Callable[[Parameters], None] = lambda parameters: None,
    ) -> tuple[Tensor, Tensor]:
        """Return the objective and the loss of each part, and set the parameters' gradients.

        ``check`` is called with the parameters before the computation.
        """
        self._set_values(tensors[0].device)
        self.parameters.free_gradients()  # now: memory is for one set of them
        number = self._objective.scheduled.values().get("num_particles")
        run = self._compiled.prepare(*tensors, constants=(constants, number))
        if self._compiled.guards is None or self._compiled.guards is not self.guards:
            self.parameters = Parameters(self._objective)
            self.parameters.free_gradients()
            self.guards = self._compiled.guards
        check(self.parameters)
        loss, losses, *gradients = run()
        self._set_gradients(gradients)
        assert loss is not None
        assert losses is not None
        return loss, losses

    def _set_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Give each parameter its gradient, with its own memory and the parameter's strides.

        Autograd may return expanded tensors, and the same tensor for two parameters. Fused
        optimisers would read the former as if contiguous; clipping would scale the latter twice.
        """
        used = set()
        for parameter, gradient in zip(self.parameters.trainable, gradients, strict=True):
            if gradient is not None:
                memory = gradient.untyped_storage().data_ptr()
                if memory in used or gradient.stride() != parameter.stride():
                    gradient = torch.empty_like(parameter).copy_(gradient)
                used.add(memory)
            parameter.grad = gradient
            hooks = parameter._post_accumulate_grad_hooks
            if hooks and gradient is not None:
                for hook in list(hooks.values()):
                    hook(parameter)

    def _set_values(self, device: torch.device) -> None:
        current, self._values = self._objective.scheduled.values(), {}
        for name in self._objective.scheduled.schedules:
            if (name, device) not in self._scheduled:
                # At full precision: being 0-dimensional, it changes no other tensor's dtype.
                zero = torch.zeros((), device=device, dtype=torch.float64)
                self._scheduled[name, device] = zero
            self._values[name] = self._scheduled[name, device].fill_(current[name])

    def _step(self, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        """Run the objective and its backward pass."""
        trainable = Parameters(self._objective).trainable
        device = tensors[0].device.type
        # Networks that are run again for the backward pass have the precision of the forward one.
        with torch.enable_grad(), self._context(), networks_only(self._objective, device):
            loss, losses = self._objective(self._make_shard(*tensors))
            gradients: Sequence[Tensor | None] = [None] * len(trainable)
            if loss.requires_grad:
                gradients = torch.autograd.grad(loss, trainable, allow_unused=True)
        return (loss.detach(), losses, *gradients)


class FullBatchObjective:
    """A compiled objective for batches as large as the first; the last of an epoch may not be."""

    def __init__(
        self,
        objective: TrainingObjective,
        first: DataShard,
        context: Callable[[], AbstractContextManager],
    ) -> None:
        self._shard = first
        self._sizes = first.sizes
        self._compiled = CompiledObjective(objective, self._with_tensors, context=context)

    def supports(self, shard: DataShard) -> bool:
        """Return whether data are a full batch, and steps can be compiled."""
        return shard.sizes == self._sizes and not self._compiled.failed

    def __call__(self, shard: DataShard) -> tuple[Tensor, Tensor]:
        """Return the objective and the loss of each part, and set the parameters' gradients."""
        self._shard = shard
        tensors = [tensor for part in shard.parts for tensor in part.tensors]
        named = tuple((p.name, p.weight, len(p.args), *p.kwargs) for p in shard.parts)
        return self._compiled(*tensors, constants=(named, shard.fractions))

    def _with_tensors(self, *tensors: Tensor) -> DataShard:
        rest = iter(tensors)
        parts = [part.replaced(rest) for part in self._shard.parts]
        return DataShard(parts, self._shard.fractions, self._shard.sizes)
