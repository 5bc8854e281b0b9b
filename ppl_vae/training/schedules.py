"""Settings of an estimator that change while training."""

from __future__ import annotations

from collections.abc import Callable

from pyro.infer import ELBO

from ppl_vae.errors import describe, positive_int
from ppl_vae.estimators import KLWeighted


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
        self._step = 0
        self.at(0)

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

    def now(self) -> ELBO:
        """Return the estimator as it is at the step, for one call."""
        if isinstance(self._estimator, KLWeighted):
            self._estimator.step = self._step  # a call takes a step of its own
        return self._estimator

    def values(self) -> dict[str, float | int]:
        """Return what the schedules say now, by name."""
        values: dict[str, float | int] = {}
        if isinstance(self._estimator, KLWeighted):
            values["beta"] = self._estimator.schedule(self._step)
        if self._num_particles is not None:
            values["num_particles"] = self.bound.num_particles
        return values
