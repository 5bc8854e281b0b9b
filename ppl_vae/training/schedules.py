"""Settings of an estimator that change while training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from pyro.infer import ELBO
from torch import Tensor

from ppl_vae.errors import describe, positive_int
from ppl_vae.estimators import KLWeighted, constant


class Scheduled:
    """An estimator whose β and number of particles follow the step.

    Args:
        estimator: of a bound.
        beta: the weight on the KL, or a function of the step, 0 for the first, such as
            :func:`ppl_vae.estimators.linear_warm_up`; as it is if None.
        num_particles: a function of the step that returns an integer; as it is if None.
        total_steps: of the training: a warm-up that is longer is reported.
    """

    def __init__(
        self,
        estimator: ELBO,
        beta: float | int | Callable[[int], float] | None,
        num_particles: Callable[[int], int] | None,
        total_steps: int | None,
    ) -> None:
        if beta is not None:
            if isinstance(estimator, KLWeighted):
                raise ValueError(
                    f"fit: the estimator has a weight on the KL already, and beta={beta!r} was "
                    f"given; leave one of them out"
                )
            estimator = KLWeighted(estimator, beta, total_steps=total_steps)
        if num_particles is not None and not callable(num_particles):
            raise TypeError(
                f"fit: num_particles must be a function of the step, got "
                f"{describe(num_particles)}; a constant number is an argument of the estimator"
            )
        self._estimator = estimator
        self.bound = estimator.estimator if isinstance(estimator, KLWeighted) else estimator
        """The estimator without β."""
        self._num_particles = num_particles
        self._schedule = estimator.schedule if isinstance(estimator, KLWeighted) else None
        self._step = 0
        self.at(0)

    @property
    def estimators(self) -> tuple[ELBO, ...]:
        """The estimator, and the one that it weights."""
        return (self._estimator, self.bound) if self.weighted else (self.bound,)

    @contextmanager
    def beta_is(self, beta: Tensor | None) -> Iterator[None]:
        """Within ``with``, let a tensor be the weight on the KL, if it has one."""
        before = self._schedule
        if before is not None:
            self._schedule = lambda step: beta  # type: ignore[assignment,return-value]
        try:
            yield
        finally:
            self._schedule = before

    @property
    def beta(self) -> Callable[[int], float] | None:
        """The schedule of the weight on the KL, if it has one."""
        return self._estimator.schedule if isinstance(self._estimator, KLWeighted) else None

    @property
    def weighted(self) -> bool:
        """Whether the KL has a weight."""
        return self._estimator is not self.bound

    def at(self, step: int) -> None:
        """Set what the estimator is at a step."""
        self._step = step
        if self._num_particles is not None:
            number = self._num_particles(step)
            self.bound.num_particles = positive_int("fit", "num_particles(step)", number)

    def now(self, *, weighted: bool = True) -> AbstractContextManager[ELBO]:
        """Within ``with``, the estimator as it is at the step, with β or without."""
        estimator = self._estimator
        if isinstance(estimator, KLWeighted):
            return self._with_beta(estimator, weighted)
        return nullcontext(estimator)

    @contextmanager
    def _with_beta(self, estimator: KLWeighted, weighted: bool) -> Iterator[ELBO]:
        # Without β it is 1: the bare estimator would find the programs new, and run them once more.
        schedule, estimator.step = estimator.schedule, self._step
        estimator.schedule = self._schedule if self._schedule and weighted else constant(1.0)
        try:
            yield estimator
        finally:
            estimator.schedule, estimator.step = schedule, self._step  # a call has taken a step

    def values(self) -> dict[str, float | int]:
        """Return what the schedules say now, by name."""
        values: dict[str, float | int] = {}
        if isinstance(self._estimator, KLWeighted):
            values["beta"] = self._estimator.schedule(self._step)
        if self._num_particles is not None:
            values["num_particles"] = self.bound.num_particles
        return values
