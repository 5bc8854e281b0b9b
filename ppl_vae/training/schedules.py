"""β, the temperature and the number of particles as functions of the step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Real

from pyro.infer import ELBO
from torch import Tensor

from ppl_vae.errors import describe, number, positive_int, quoted, sizes
from ppl_vae.estimators import KLWeighted, TemperatureScheduled, constant
from ppl_vae.estimators.scheduled import wrappers


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
    """An estimator whose β, temperature and number of particles follow the step.

    The estimator is as it was given, except within :meth:`now`. A ``KLWeighted`` and a
    ``TemperatureScheduled`` may be around one another; each has a step of its own.

    Args:
        estimator: of a bound.
        beta: the weight on the KL, or a function of the step, 0 for the first, such as
            :func:`ppl_vae.estimators.linear_warm_up`; unchanged if None.
        num_particles: a function of the step that returns an integer; unchanged if None.
        total_steps: of the training: a warm-up that is longer is reported.
        temperature: that of relaxed draws, or a function of the step; unchanged if None.

    Raises:
        ValueError: if two of the estimators around the bound schedule the same.
    """

    def __init__(
        self,
        estimator: ELBO,
        beta: float | int | Callable[[int], float] | None = None,
        num_particles: Callable[[int], int] | None = None,
        total_steps: int | None = None,
        temperature: float | int | Callable[[int], float] | None = None,
    ) -> None:
        if temperature is not None:
            if not callable(temperature):
                if not isinstance(temperature, Real):
                    expected = "a number above 0 or a function of the step"
                    raise TypeError(
                        f"fit: temperature must be {expected}, got {describe(temperature)}"
                    )
                temperature = number("fit", "temperature", temperature, above=0)
            if any(isinstance(outer, TemperatureScheduled) for outer in wrappers(estimator)):
                raise ValueError(
                    f"fit: the estimator has a temperature already, got "
                    f"temperature={temperature!r}; leave temperature out"
                )
            estimator = TemperatureScheduled(estimator, temperature)
        if beta is not None:
            if not callable(beta):
                if not isinstance(beta, Real):
                    expected = "a number or a function of the step, such as linear_warm_up(1000)"
                    raise TypeError(f"fit: beta must be {expected}, got {describe(beta)}")
                beta = number("fit", "beta", beta, least=0)
            if any(isinstance(outer, KLWeighted) for outer in wrappers(estimator)):
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
        self._wrappers = wrappers(estimator)
        names = [outer.quantity for outer in self._wrappers]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"fit: the estimator schedules the {twice[0]} twice; leave out one")
        self.bound = self._wrappers[-1].estimator if self._wrappers else estimator
        """The estimator without β and temperature."""
        self.first = tuple(outer.step for outer in self._wrappers)
        """The steps of the schedules at the first step of a training."""
        self._num_particles = num_particles
        self._tensors: Mapping[str, Tensor] = {}
        self.at(0)

    @property
    def estimators(self) -> dict[str, ELBO]:
        """The estimator, and those within it; the last is that of the bound."""
        within = {f"estimator with {outer.quantity}": outer for outer in self._wrappers[1:]}
        return {"estimator": self._estimator, **within, "estimator of the bound": self.bound}

    @property
    def changing(self) -> dict[str, tuple[str, ...]]:
        """The attributes of these estimators that change from step to step."""
        around = [name for name in self.estimators if name != "estimator of the bound"]
        return dict.fromkeys(around, ("step", "schedule")) if self._wrappers else {}

    @property
    def schedules(self) -> dict[str, Callable[[int], float]]:
        """The schedules of β and the temperature, where there are any."""
        return {outer.quantity: outer.schedule for outer in self._wrappers}

    def settings(self) -> dict[str, object]:
        """Return the schedules and their first steps by name, which decide a training's result."""
        steps = dict(zip(self.schedules, self.first, strict=True))
        found: dict[str, object] = {
            "beta": self.schedules.get("beta"),
            "estimator.step": steps.pop("beta", 0),
        }
        for name, step in steps.items():
            found |= {name: self.schedules[name], f"{name}.step": step}
        return found

    @property
    def weighted(self) -> bool:
        """Whether the KL has a weight."""
        return "beta" in self.schedules

    def at(self, step: int) -> None:
        """Set the step of the training, from 0; schedules count from the estimators' own steps.

        Raises TypeError or ValueError for an invalid β, temperature or number of particles.
        """
        self._set_values([first + step for first in self.first])
        if self._num_particles is not None:
            particles = self._num_particles(step)
            self._values["num_particles"] = positive_int("fit", "num_particles(step)", particles)

    def at_own_steps(self) -> None:
        """Set the estimators' own steps; raises as :meth:`at` does."""
        self._set_values([outer.step for outer in self._wrappers])

    def _set_values(self, steps: Sequence[int]) -> None:
        self._steps = steps
        self._values: dict[str, float | int] = {}
        for outer, step in zip(self._wrappers, steps, strict=True):
            self._values[outer.quantity] = outer.value_at(step)

    def advance(self, steps: int) -> None:
        """Move the estimators' own steps."""
        for outer in self._wrappers:
            outer.step += steps

    def values(self) -> dict[str, float | int]:
        """Return the current values of the schedules by name."""
        return dict(self._values)

    @contextmanager
    def values_are(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Within ``with``, use tensors, by name, as β and the temperature."""
        with _set(self, _tensors=values):
            yield

    @contextmanager
    def now(self, *, weighted: bool = True) -> Iterator[ELBO]:
        """Within ``with``, the estimator at the current step, with β or without."""
        with ExitStack() as stack:
            if (particles := self._values.get("num_particles")) is not None:
                stack.enter_context(_set(self.bound, num_particles=particles))
            for outer, step in zip(self._wrappers, self._steps, strict=True):
                # With a β of 1 rather than the bare estimator, which would run the programs once
                # more, as new ones.
                plain = isinstance(outer, KLWeighted) and not weighted
                given = {"schedule": constant(1.0)} if plain else {}
                stack.enter_context(_set(outer, step=step, **given))
                tensor = None if plain else self._tensors.get(outer.quantity)
                if tensor is not None:
                    stack.enter_context(outer.value_is(tensor))
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
