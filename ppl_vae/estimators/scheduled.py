"""Estimators that run their programs under a handler whose value follows the step."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.errors import describe, number
from ppl_vae.process_state import exclusively

Schedule = Callable[[int], float]
"""A value as a function of the step, counted from 0."""


class ScheduledELBO(ELBO, ABC):
    """An estimator around another, with a value that each step reads from a schedule.

    Each call of ``loss_and_grads`` or ``differentiable_loss`` is one step of the schedule; ``loss``
    (``svi.evaluate_loss``) is that of the estimator within.

    Args:
        estimator: any ``pyro.infer.ELBO``.
        schedule: the value as a function of the step.
    """

    quantity: ClassVar[str]
    """What the value is called."""
    least: ClassVar[int | None] = None
    above: ClassVar[int | None] = None
    """The range of the value: at least the one, above the other."""

    def __init__(self, estimator: ELBO, schedule: Schedule) -> None:
        super().__init__()
        if not isinstance(estimator, ELBO):
            owner, expected = type(self).__name__, "a pyro.infer.ELBO, such as Trace_ELBO()"
            raise TypeError(f"{owner}: estimator must be {expected}, got {describe(estimator)}")
        self.estimator = estimator
        self.schedule = schedule
        self.step = 0
        """The number of steps taken; set it when resuming."""
        self._tensor: Tensor | None = None

    @abstractmethod
    def _handler(self, value: float | Tensor) -> Messenger:
        """Return the handler of both programs for one step."""

    def value_at(self, step: int) -> float:
        """Return the value at a step; raise TypeError or ValueError unless it is in its range."""
        value = self.schedule(step)
        if isinstance(value, Tensor) and value.dim() == 0:
            value = value.item()
        owner = f"{type(self).__name__}, schedule at step {step}"
        return float(number(owner, self.quantity, value, least=self.least, above=self.above))

    @contextmanager
    def value_is(self, value: Tensor) -> Iterator[None]:
        """Context manager that sets the value to a 0-dimensional tensor, which is not read."""
        before, self._tensor = self._tensor, value
        try:
            yield
        finally:
            self._tensor = before

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return minus the objective at the current value, and take one step of the schedule."""
        with exclusively():
            programs = self._at_value(model, guide)
            loss = self.estimator.differentiable_loss(*programs, *args, **kwargs)
            self.step += 1
        return loss

    def loss_and_grads(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor | float:
        """Return minus the objective at the current value, with gradients, and take one step."""
        with exclusively():
            programs = self._at_value(model, guide)
            loss = self.estimator.loss_and_grads(*programs, *args, **kwargs)
            self.step += 1
        return loss

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Return minus the bound of the estimator within."""
        with exclusively():
            return self.estimator.loss(model, guide, *args, **kwargs)

    def _at_value(self, model: Callable, guide: Callable) -> tuple[Callable, Callable]:
        """Return the programs under the current value."""
        # The programs are not kept: they may be gone by the next step.
        handler = self._handler(self.value_at(self.step) if self._tensor is None else self._tensor)
        return handler(model), handler(guide)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_tensor": None}  # which belongs to a step

    def __repr__(self) -> str:
        name, schedule = type(self).__name__, _shown(self.schedule)
        return f"{name}({_shown(self.estimator)}, {schedule}){self._at_step()}"

    def _at_step(self) -> str:
        return f"  # at step {self.step}" if self.step else ""

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> None:
        owner = type(self).__name__
        raise NotImplementedError(f"{owner} leaves traces to the estimator it wraps")


def _shown(value: object) -> str:
    """Return the ``repr`` of an estimator or a schedule without an address or a comment."""
    if isinstance(value, ELBO) and type(value).__repr__ is object.__repr__:
        return f"{type(value).__name__}()"  # Pyro's
    if type(value).__repr__ is object.__repr__ or inspect.isroutine(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return repr(value).partition("  #")[0]


def wrappers(estimator: ELBO) -> list[ScheduledELBO]:
    """Return the scheduled estimators around one, the outermost first."""
    found = []
    while isinstance(estimator, ScheduledELBO):
        found.append(estimator)
        estimator = estimator.estimator
    return found
