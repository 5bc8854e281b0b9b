"""β and the number of particles as functions of the step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Real

from pyro.infer import ELBO
from torch import Tensor

from ppl_vae.errors import describe, number, positive_int, quoted, sizes
from ppl_vae.estimators import KLWeighted, constant


@dataclass(frozen=True)
class PiecewiseConstant:
    """A function of the step that changes at milestones, for ``fit(num_particles=)``.

    Args:
        milestones: the steps, ascending, from which on the next value holds.
        values: integers, one more than milestones.

    Example:
        >>> particles = PiecewiseConstant(milestones=(1000, 5000), values=(1, 5, 50))
        >>> particles(0), particles(1000), particles(9999)
        (1, 5, 50)
    """

    milestones: Sequence[int]
    values: Sequence[int]

    def __post_init__(self) -> None:
        for name in ("milestones", "values"):
            object.__setattr__(self, name, sizes("PiecewiseConstant", name, getattr(self, name)))
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(
                f"PiecewiseConstant: milestones must ascend, got {quoted(self.milestones)}"
            )
        if len(self.values) != len(self.milestones) + 1:
            raise ValueError(
                f"PiecewiseConstant: values must be one more than milestones, "
                f"{len(self.milestones) + 1}, got {len(self.values)}"
            )

    def __call__(self, step: int) -> int:
        """Return the value at a step, 0 for the first."""
        return self.values[bisect_right(self.milestones, step)]


class Scheduled:
    """An estimator whose β and number of particles follow the step.

    The estimator is as it was given, except within :meth:`now`.

    Args:
        estimator: of a bound.
        beta: the weight on the KL, or a function of the step, 0 for the first, such as
            :func:`ppl_vae.estimators.linear_warm_up`; unchanged if None.
        num_particles: a function of the step that returns an integer; unchanged if None.
        total_steps: of the training: a warm-up that is longer is reported.
    """

    def __init__(
        self,
        estimator: ELBO,
        beta: float | int | Callable[[int], float] | None = None,
        num_particles: Callable[[int], int] | None = None,
        total_steps: int | None = None,
    ) -> None:
        if beta is not None:
            if not callable(beta):
                if not isinstance(beta, Real):
                    expected = "a number or a function of the step, such as linear_warm_up(1000)"
                    raise TypeError(f"fit: beta must be {expected}, got {describe(beta)}")
                beta = number("fit", "beta", beta, least=0)
            if isinstance(estimator, KLWeighted):
                raise ValueError(
                    f"fit: the estimator has a weight on the KL already, got beta={beta!r}; leave "
                    f"beta out"
                )
            estimator = KLWeighted(estimator, beta, total_steps=total_steps)
        if num_particles is not None and not callable(num_particles):
            raise TypeError(
                f"fit: num_particles must be a function of the step, got "
                f"{describe(num_particles)}; a constant number is an argument of the estimator"
            )
        self._estimator = estimator
        self._weighted = estimator if isinstance(estimator, KLWeighted) else None
        self.bound = self._weighted.estimator if self._weighted else estimator
        """The estimator without β."""
        self.first = self.own_step
        """The step of β at the first step of a training."""
        self._num_particles = num_particles
        self._tensor: Tensor | None = None
        self.at(0)

    @property
    def estimators(self) -> dict[str, ELBO]:
        """The estimator, and the one that it weights."""
        return {"estimator": self._estimator, "estimator of the bound": self.bound}

    @property
    def beta(self) -> Callable[[int], float] | None:
        """The schedule of the weight on the KL, if it has one."""
        return self._weighted.schedule if self._weighted else None

    @property
    def weighted(self) -> bool:
        """Whether the KL has a weight."""
        return self._weighted is not None

    @property
    def own_step(self) -> int:
        """The estimator's own step; 0 if it has none."""
        return self._weighted.step if self._weighted else 0

    def at(self, step: int) -> None:
        """Set the step of the training, from 0; β counts from the estimator's own step.

        Raises TypeError or ValueError for an invalid β or number of particles.
        """
        self._step = self.first + step
        self._values: dict[str, float | int] = {}
        if self._weighted:
            self._values["beta"] = self._weighted.beta_at(self._step)
        if self._num_particles is not None:
            particles = self._num_particles(step)
            self._values["num_particles"] = positive_int("fit", "num_particles(step)", particles)

    def at_own_step(self) -> None:
        """Set the estimator's own step; raises as :meth:`at` does."""
        self.at(self.own_step - self.first)

    def advance(self, steps: int) -> None:
        """Move the estimator's own step."""
        if self._weighted:
            self._weighted.step += steps

    def values(self) -> dict[str, float | int]:
        """Return the current values of the schedules by name."""
        return dict(self._values)

    @contextmanager
    def beta_is(self, beta: Tensor | None) -> Iterator[None]:
        """Within ``with``, use a tensor as the weight on the KL, if it has one."""
        with _set(self, _tensor=beta):
            yield

    @contextmanager
    def now(self, *, weighted: bool = True) -> Iterator[ELBO]:
        """Within ``with``, the estimator at the current step, with β or without."""
        with ExitStack() as stack:
            if (particles := self._values.get("num_particles")) is not None:
                stack.enter_context(_set(self.bound, num_particles=particles))
            if self._weighted:
                # With a β of 1 rather than the bare estimator, which would run the programs once
                # more, as new ones.
                given = {} if weighted else {"schedule": constant(1.0)}
                stack.enter_context(_set(self._weighted, step=self._step, **given))
                if weighted and self._tensor is not None:
                    stack.enter_context(self._weighted.beta_is(self._tensor))
            yield self._estimator


@contextmanager
def _set(thing: object, **attributes: object) -> Iterator[None]:
    """Within ``with``, set attributes of an object."""
    before = {name: getattr(thing, name) for name in attributes}
    for name, value in attributes.items():
        setattr(thing, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(thing, name, value)
