"""A step's forward and backward pass as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ppl_vae.compilation import Compiled
from ppl_vae.training.distributed import Share
from ppl_vae.training.objective import Objective
from ppl_vae.training.parameters import Parameters


class CompiledObjective:
    """An objective whose value and gradient come from graphs, as ``ppl_vae.compilation`` has them.

    β is a tensor to them, and may change from step to step.

    Args:
        objective: what is differentiated.
        share: makes the share of a step of its tensors, as a part of the graph.
        prepare: what that calls of a user's own, which may change.
        around: makes a context in which the objective is run, such as one of mixed precision.
    """

    def __init__(
        self,
        objective: Objective,
        share: Callable[..., Share],
        *,
        prepare: object = None,
        around: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self._objective = objective
        self._share = share
        self._around = around
        self._betas: dict[torch.device, Tensor] = {}
        self._beta: Tensor | None = None
        self._state: object = None
        self.parameters = Parameters(objective)
        """The objective's parameters, as they were at the last call."""
        self._compiled = Compiled(
            self._step,
            {"model": objective.model, "guide": objective.guide},
            others={**objective.scheduled.estimators, "prepare": prepare},
            but={"estimator": ("step", "schedule")} if objective.scheduled.weighted else None,
            while_tracing=lambda: objective.scheduled.beta_is(self._beta),
            lasting=2,
            what="a training step",
        )

    @property
    def failed(self) -> bool:
        """Whether steps are run uncompiled, after a warning."""
        return self._compiled.failed

    @property
    def state(self) -> object:
        """What programs held at the last call: one object while it is the same; None if unknown."""
        return self._compiled.state

    def __call__(
        self,
        *tensors: Tensor,
        constants: Hashable = (),
        check: Callable[[Parameters], None] = lambda parameters: None,
    ) -> tuple[Tensor, Tensor]:
        """Return the objective and the losses of its parts, with gradients in the parameters.

        Args:
            tensors: what ``share`` is called with.
            constants: what else ``share`` depends on.
            check: looks at the parameters before anything is computed of them.
        """
        self._set_beta(tensors[0].device)
        self.parameters.forget_gradients()  # before the new ones are there: memory is for one
        number = self._objective.scheduled.values().get("num_particles")
        run = self._compiled.ready(*tensors, constants=(constants, number))
        if self.state is None or self.state is not self._state:
            self.parameters = Parameters(self._objective)
            self.parameters.forget_gradients()
            self._state = self.state
        check(self.parameters)
        loss, losses, *gradients = run()
        self._fill(gradients)
        assert loss is not None
        assert losses is not None
        return loss, losses

    def _fill(self, gradients: Sequence[Tensor | None]) -> None:
        """Give each parameter its gradient, in memory of its own and laid out as it is.

        Autograd returns expanded numbers, and one tensor for two parameters, where it can; fused
        optimisers read the former as if they were whole, and clipping scales the latter twice.
        """
        taken = set()
        for parameter, gradient in zip(self.parameters.trainable, gradients, strict=True):
            if gradient is not None:
                memory = gradient.untyped_storage().data_ptr()
                if memory in taken or gradient.stride() != parameter.stride():
                    gradient = torch.empty_like(parameter).copy_(gradient)
                taken.add(memory)
            parameter.grad = gradient
            hooks = parameter._post_accumulate_grad_hooks
            if hooks and gradient is not None:
                for hook in [*hooks.values()]:
                    hook(parameter)

    def _set_beta(self, device: torch.device) -> None:
        beta = self._objective.scheduled.values().get("beta")
        if beta is not None:
            if device not in self._betas:
                # As many digits as β has: beside another tensor its dtype changes nothing.
                self._betas[device] = torch.zeros((), device=device, dtype=torch.float64)
            self._beta = self._betas[device]
            self._beta.fill_(beta)

    def _step(self, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        """Run the objective and its backward pass."""
        trainable = Parameters(self._objective).trainable
        with torch.enable_grad():
            with self._around():
                loss, losses = self._objective(self._share(*tensors))
            gradients: Sequence[Tensor | None] = [None] * len(trainable)
            if loss.requires_grad:
                gradients = torch.autograd.grad(loss, trainable, allow_unused=True)
        return (loss.detach(), losses, *gradients)


class CompiledShares:
    """A compiled objective for shares as ``fit`` has them.

    Args:
        objective: what is differentiated.
        first: a share of the size that most have; those of other sizes, such as the last of an
            epoch, are to be run uncompiled.
        around: as for :class:`CompiledObjective`.
    """

    def __init__(
        self,
        objective: Objective,
        first: Share,
        around: Callable[[], AbstractContextManager],
    ) -> None:
        self._like = first
        self._sizes = first.sizes
        self._compiled = CompiledObjective(objective, self._made_of, around=around)

    def suits(self, share: Share) -> bool:
        """Tell whether a share is of the size of most."""
        return share.sizes == self._sizes and not self._compiled.failed

    def __call__(self, share: Share) -> tuple[Tensor, Tensor]:
        """Return the objective and the losses of the parts, with gradients in the parameters."""
        self._like = share
        tensors = [tensor for part in share.parts for tensor in part.tensors]
        named = tuple((p.name, p.weight, len(p.args), *p.kwargs) for p in share.parts)
        return self._compiled(*tensors, constants=(named, share.fractions))

    def _made_of(self, *tensors: Tensor) -> Share:
        rest = iter(tensors)
        parts = [part.replaced(rest) for part in self._like.parts]
        return Share(parts, self._like.fractions, self._like.sizes)
