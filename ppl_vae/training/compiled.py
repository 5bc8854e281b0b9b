"""A step's forward and backward pass as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ppl_vae.compilation import Compiled
from ppl_vae.training.distributed import Share
from ppl_vae.training.objective import Objective


class CompiledObjective:
    """An objective whose value and gradient come from graphs, as ``ppl_vae.compilation`` has them.

    β is a tensor to them, and may change from step to step.

    Args:
        objective: what is differentiated.
        share: makes the share of a step of its tensors, as a part of the graph.
        around: makes a context in which the objective is run, such as one of mixed precision.
    """

    def __init__(
        self,
        objective: Objective,
        share: Callable[..., Share],
        *,
        around: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self._objective = objective
        self._share = share
        self._around = around
        self._parameters = [p for p in objective.parameters() if p.requires_grad]
        self._beta: Tensor | None = None
        self._compiled = Compiled(
            self._step,
            [objective],
            others=objective.scheduled.estimators,
            but=("step",),
            while_tracing=lambda: objective.scheduled.beta_is(self._beta),
            lasting=2,
            what="a training step",
        )

    @property
    def failed(self) -> bool:
        """Whether steps are run uncompiled, after a warning."""
        return self._compiled.failed

    def __call__(self, *tensors: Tensor, constants: Hashable = ()) -> tuple[Tensor, Tensor]:
        """Return the objective and the losses of its parts, with gradients in the parameters.

        Args:
            tensors: what ``share`` is called with.
            constants: what else ``share`` depends on.
        """
        self._set_beta(tensors[0].device)
        for parameter in self._parameters:
            parameter.grad = None  # before the new ones are there: memory is for one of each
        loss, losses, *gradients = self._compiled(*tensors, constants=constants)
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
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            if gradient is not None:
                memory = gradient.untyped_storage().data_ptr()
                if memory in taken or gradient.stride() != parameter.stride():
                    gradient = torch.empty_like(parameter).copy_(gradient)
                taken.add(memory)
            parameter.grad = gradient

    def _set_beta(self, device: torch.device) -> None:
        beta = self._objective.scheduled.values().get("beta")
        if beta is not None:
            if self._beta is None:
                self._beta = torch.zeros((), device=device)
            self._beta.fill_(beta)

    def _step(self, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        """Run the objective and its backward pass."""
        with torch.enable_grad():
            with self._around():
                loss, losses = self._objective(self._share(*tensors))
            gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
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
