"""Early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ppl_vae.errors import describe, number, positive_int
from ppl_vae.estimators.kl_weight import WarmUp
from ppl_vae.process_state import restored

_LOOKS = 100_000
MONITORS = ("objective", "bound")


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when a loss on the validation data has not improved for some time.

    Validations count once β and the number of particles have their final values: during a warm-up
    the objective is another one. Of a cyclical warm-up those at the final β count. The best weights
    are the best of those that count. The bound is the same all along: where it is monitored, the
    best weights may be those of a warm-up, and patience alone waits for its end.

    Source: Prechelt 1998 (Early stopping: but when?), criterion UP, with the best weights kept.

    Args:
        patience: how many validations without an improvement end the training.
        min_delta: by how many nats per datum the loss must improve to count.
        monitor: ``"objective"``, minus the bound with the weight β on its KL, as is minimised; or
            ``"bound"``, minus the bound whatever β is.

    Example:
        >>> EarlyStopping(patience=5)
        EarlyStopping(patience=5, min_delta=0.0, monitor='objective')
    """

    patience: int
    min_delta: float | int = 0.0
    monitor: str = "objective"

    def __post_init__(self) -> None:
        patience = positive_int("EarlyStopping", "patience", self.patience)
        object.__setattr__(self, "patience", patience)
        delta = number("EarlyStopping", "min_delta", self.min_delta, least=0)
        object.__setattr__(self, "min_delta", delta)
        if self.monitor not in MONITORS:
            got = describe(self.monitor)
            raise ValueError(f"EarlyStopping: monitor must be one of {MONITORS}, got {got}")


class Settled:
    """Whether the schedules have, after some steps, their final values.

    Args:
        schedules: functions of the step; None for what does not change.
        total: the steps of the training.
        first: each schedule's step at the first step of the training; 0 if not given.
    """

    def __init__(
        self,
        schedules: Sequence[Callable[[int], float] | None],
        total: int,
        first: Sequence[int] = (),
    ) -> None:
        starts = zip(schedules, first or [0] * len(schedules), strict=True)
        self._starts = [(schedule, start) for schedule, start in starts if schedule is not None]
        self._total = total

    def __call__(self, steps: int) -> bool:
        """Tell whether they have them at the last of so many steps."""
        return all(settled(start + steps - 1) for settled, start in self._settled)

    @cached_property
    def _settled(self) -> list[tuple[Callable[[int], bool], int]]:
        with restored():
            return [(_settled(s, start, start + self._total), start) for s, start in self._starts]


def _settled(schedule: Callable[[int], float], start: int, end: int) -> Callable[[int], bool]:
    if isinstance(schedule, WarmUp):
        rising = 0 if schedule.start == schedule.end else schedule.steps
        period = schedule.period or end
        if any(step % period >= rising for step in range(start, min(end, start + period))):
            return lambda step: step % period >= rising
        begin = end - 1
    else:
        begin = _constant_from(schedule, start, end)
    return lambda step: step >= begin


def _constant_from(schedule: Callable[[int], float], start: int, end: int) -> int:
    """Return the first step from which a function keeps its last value."""
    last, begin = schedule(end - 1), end - 1
    # Every step, except in very long trainings, where the result may be slightly late.
    for step in range(end - 1, start - 1, -max(1, (end - start) // _LOOKS)):
        if schedule(step) != last:
            break
        begin = step
    else:
        begin = start
    return begin


@dataclass
class Best:
    """The best validation so far."""

    loss: float = math.inf
    step: int = -1
    since: int = 0

    def improved(self, step: int, loss: float, min_delta: float | int) -> bool:
        """Record a validation; tell whether it is the best so far."""
        # The first one always, and after NaN any number.
        better = loss < self.loss - min_delta or math.isnan(self.loss) > math.isnan(loss)
        if self.step < 0 or better:
            self.loss, self.step, self.since = loss, step, 0
            return True
        self.since += 1
        return False
