"""The base class of estimators that keep one term per datum."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import torch
from pyro.infer import ELBO
from torch import Tensor

from ppl_vae.errors import describe, integer, positive_int
from ppl_vae.estimators.handlers import NestingError
from ppl_vae.estimators.traces import PlateNesting, Runner, total
from ppl_vae.process_state import exclusively

T = TypeVar("T")


class Bound(NamedTuple):
    """A bound and, if its derivative is not the gradient estimator, a surrogate to differentiate.

    Args:
        per_datum: the bound in nats, shape ``(batch,)``, without N/B.
        scale: N/B.
        surrogate: a scalar whose gradient estimates that of the summed bound; its value is
            meaningless. None if ``per_datum`` itself is differentiated.
    """

    per_datum: Tensor
    scale: float
    surrogate: Tensor | None = None


class _WithGradientOf(torch.autograd.Function):
    """A value with the gradient of a surrogate, whose own value may be infinite or NaN."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, surrogate: Tensor) -> Tensor:
        """Return the value."""
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """Pass the gradient to the surrogate."""
        return None, gradient


def loss_of(bound: Bound) -> Tensor:
    """Return minus N/B times the summed bound, with its gradient."""
    loss = -bound.scale * bound.per_datum.sum()
    if bound.surrogate is None:
        return loss
    return _WithGradientOf.apply(loss.detach(), -bound.scale * bound.surrogate)


class PerDatumELBO(ELBO, ABC):
    """A ``pyro.infer.ELBO`` with one term per datum of the batch plate.

    ``loss``, ``loss_and_grads`` and ``differentiable_loss`` return minus N/B times the sum of the
    bound over the batch, in nats per batch; a surrogate never reaches a value. Only ``loss``, which
    returns a float, synchronises with the device. The arguments are those of its subclasses.
    """

    def __init__(
        self, num_particles: int, *, plate: Any = "data", max_plate_nesting: int | None = None
    ) -> None:
        owner = type(self).__name__
        num_particles = positive_int(owner, "num_particles", num_particles)
        self._check_plate(plate)
        if max_plate_nesting is not None:
            max_plate_nesting = integer(owner, "max_plate_nesting", max_plate_nesting, 0)
        super().__init__(num_particles=num_particles)
        self.plate = plate
        self._given_nesting = max_plate_nesting
        self._found_nesting = PlateNesting()

    def _check_plate(self, plate: object) -> None:
        if not isinstance(plate, str):
            got = describe(plate)
            owner = type(self).__name__
            raise TypeError(f"{owner}: plate must be the name of the batch plate, got {got}")

    @abstractmethod
    def _bounds(self, runner: Runner) -> list[Bound]:
        """Return the bound of each batch plate, with any surrogate if gradients are enabled."""

    def __repr__(self) -> str:
        given = []
        for p in inspect.signature(type(self)).parameters.values():
            name = "_given_nesting" if p.name == "max_plate_nesting" else p.name
            value = getattr(self, name)
            if value != p.default:
                given.append(f"{p.name}={value!r}")
        return f"{type(self).__name__}({', '.join(given)})"

    def per_datum(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return the bound for each datum in nats, without N/B, shape ``(batch,)``; detached."""
        with exclusively(), torch.no_grad():
            bounds = self._of_runner(self._bounds, model, guide, args, kwargs)
        return torch.cat([bound.per_datum for bound in bounds])

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return minus the bound in nats per batch, with the gradient of model and guide."""
        with exclusively():
            bounds = self._of_runner(self._bounds, model, guide, args, kwargs)
        return total(map(loss_of, bounds))

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound in nats per batch, as a tensor, and accumulate gradients."""
        with exclusively():
            loss = self.differentiable_loss(model, guide, *args, **kwargs)
            if loss.requires_grad:
                loss.backward()
        return loss.detach()

    @torch.no_grad()
    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Return minus the bound in nats per batch."""
        return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def _of_runner(
        self,
        result: Callable[[Runner], T],
        model: Callable,
        guide: Callable,
        args: tuple,
        kwargs: dict,
    ) -> T:
        """Return a result of running the pair; run it again if it has more plates than it had.

        Raises NestingError if it has more than ``max_plate_nesting`` allows.
        """
        nesting = self._given_nesting
        if nesting is None:
            nesting = self._found_nesting(model, guide, args, kwargs)
        try:
            return result(Runner(model, guide, args, kwargs, particle_dim=-nesting - 1))
        except Exception as error:  # plates that meet the particles raise various ones
            needed = 0
            with suppress(Exception):  # the program's own, which is raised below
                needed = self._found_nesting.anew(model, guide, args, kwargs)
            if needed <= nesting:
                raise
            if self._given_nesting is not None:
                raise NestingError(
                    f"{type(self).__name__}: the plates of model and guide take {needed} "
                    f"dimensions, got max_plate_nesting={nesting}; give {needed}, or leave it out"
                ) from error
        return result(Runner(model, guide, args, kwargs, particle_dim=-needed - 1))

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> None:
        raise NotImplementedError("particles are vectorised, so there is no single trace")
