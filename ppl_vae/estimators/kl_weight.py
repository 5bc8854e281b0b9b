"""β, the weight of the KL, constant or scheduled: an effect handler on model and guide."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.errors import describe, number, positive_int
from ppl_vae.estimators.handlers import KeepsPlates
from ppl_vae.estimators.scheduled import Schedule, ScheduledELBO
from ppl_vae.registration import IgnoresParameters


class KLWeight(IgnoresParameters, KeepsPlates, Messenger):
    """Scale the densities of latent sites by β; for use on both model and guide.

    β log p(z) - β log q(z) is -β KL in expectation. Observed sites, among them labels y of a fully
    observed batch, keep their weight; ``poutine.scale`` would scale them too, and refuses 0, where
    a warm-up starts.

    Args:
        beta: β, at least 0, or a 0-dimensional tensor, whose value is not read.
    """

    def __init__(self, beta: float | int | Tensor) -> None:
        super().__init__()
        if not isinstance(beta, Tensor):
            beta = number("KLWeight", "beta", beta, least=0)
        elif beta.dim():
            got = describe(beta)
            raise ValueError(
                f"KLWeight: beta must be a number or a 0-dimensional tensor, got {got}"
            )
        self.beta = beta

    def __repr__(self) -> str:
        return f"{type(self).__name__.lstrip('_')}({self.beta!r})"

    def _pyro_sample(self, msg: dict) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["scale"] = self._times_beta(msg["scale"])

    def _times_beta(self, scale: Any) -> Any:
        return scale * self.beta


class _StepWeight(KLWeight):
    """The weight of one step, the same tensor for all sites of one scale.

    Equal weights are then recognised by identity, without reading values, which would synchronise
    with the device and cannot be traced.
    """

    def __init__(self, beta: float | Tensor) -> None:
        super().__init__(beta)
        self._products: dict[float, Any] = {}

    def _times_beta(self, scale: Any) -> Any:
        if isinstance(scale, Tensor):
            return scale * self.beta
        if scale not in self._products:
            self._products[scale] = scale * self.beta
        return self._products[scale]


class KLWeighted(ScheduledELBO):
    r"""Any ELBO with a weight on the KL: E_q [log p(x|z)] - β KL(q(z|x) ‖ p(z)).

    Each call of ``loss_and_grads`` or ``differentiable_loss`` is one step of the schedule and
    returns minus the weighted objective in nats per batch. ``loss`` (``svi.evaluate_loss``) ignores
    β, so that what is reported is a bound on log p(x).

    Source: Higgins et al. 2017 (β-VAE, ICLR 2017), equation 4; Bowman et al. 2016 (arXiv
    1511.06349), section 3.1, for the warm-up.

    Args:
        estimator: any ``pyro.infer.ELBO``.
        beta: β, or a schedule of it such as :func:`linear_warm_up`.
        total_steps: the length of the training, if known; a longer :func:`linear_warm_up` or
            :func:`cyclical_warm_up` causes a warning.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> elbo = KLWeighted(Trace_ELBO(), linear_warm_up(1000), total_steps=20_000)
        >>> elbo.beta
        0.0
    """

    quantity = "beta"
    least = 0

    def __init__(
        self, estimator: ELBO, beta: float | int | Schedule, *, total_steps: int | None = None
    ) -> None:
        super().__init__(estimator, beta if callable(beta) else constant(beta))
        if total_steps is not None:
            self._report_unfinished(positive_int("KLWeighted", "total_steps", total_steps))

    @property
    def beta(self) -> float:
        """β of the next step."""
        return self.beta_at(self.step)

    def beta_at(self, step: int) -> float:
        """Return β at a step; raise TypeError or ValueError unless it is 0 or a larger number."""
        return self.value_at(step)

    def beta_is(self, beta: Tensor) -> AbstractContextManager[None]:
        """Context manager that sets β to a 0-dimensional tensor, whose value is not read."""
        return self.value_is(beta)

    def _handler(self, value: float | Tensor) -> KLWeight:
        return _StepWeight(value)

    def _report_unfinished(self, total_steps: int) -> None:
        schedule = self.schedule
        if not isinstance(schedule, WarmUp) or schedule.start == schedule.end:
            return
        if schedule.steps > total_steps:
            warnings.warn(
                f"KLWeighted: the warm-up of {schedule.steps:g} steps is longer than the training: "
                f"at the last of {total_steps} steps beta is {schedule(total_steps - 1):.3g}, and "
                f"it never reaches {schedule.end:.3g}",
                stacklevel=3,
            )


@dataclass(frozen=True)
class WarmUp:
    """β linear from ``start`` to ``end`` over ``steps`` steps, and again every ``period`` steps."""

    steps: float | int
    start: float | int
    end: float | int
    period: int | None = None

    def __call__(self, step: int) -> float:
        """Return β at a step, counted from 0."""
        if self.period is not None:
            step = step % self.period
        return float(self.start + (self.end - self.start) * min(step / self.steps, 1.0))


def constant(beta: float | int) -> Schedule:
    """Return a constant schedule."""
    beta = number("constant", "beta", beta, least=0)
    return WarmUp(1, beta, beta)


def linear_warm_up(steps: int, *, start: float | int = 0.0, end: float | int = 1.0) -> Schedule:
    """Return a schedule that is linear from ``start`` to ``end`` over ``steps`` steps.

    Source: Sønderby et al. 2016 (arXiv 1602.02282), section 2.3.
    """
    steps = positive_int("linear_warm_up", "steps", steps)
    return WarmUp(steps, *_ends("linear_warm_up", start, end))


def cyclical_warm_up(
    period: int, *, rising: float | int = 0.5, start: float | int = 0.0, end: float | int = 1.0
) -> Schedule:
    """Return a schedule that repeats a warm-up every ``period`` steps, in its ``rising`` fraction.

    Source: Fu et al. 2019 (arXiv 1903.10145), equation 6.
    """
    period = positive_int("cyclical_warm_up", "period", period)
    rising = number("cyclical_warm_up", "rising", rising, above=0, most=1)
    return WarmUp(period * rising, *_ends("cyclical_warm_up", start, end), period)


def _ends(owner: str, start: object, end: object) -> tuple[float | int, float | int]:
    return number(owner, "start", start, least=0), number(owner, "end", end, least=0)
