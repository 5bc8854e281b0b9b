"""τ, the temperature of relaxed draws, constant or scheduled: a handler on model and guide."""

from __future__ import annotations

from typing import Any

from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent

from ppl_vae.errors import describe, number
from ppl_vae.estimators.handlers import KeepsPlates
from ppl_vae.estimators.kl_weight import WarmUp
from ppl_vae.estimators.scheduled import Schedule, ScheduledELBO
from ppl_vae.registration import IgnoresParameters

_FIX = "the gradient at 0 is that of a step"


class Temperature(IgnoresParameters, KeepsPlates, Messenger):
    """Set the temperature of all distributions that have one; for use on both model and guide.

    Such a distribution returns itself at another temperature by its method ``at_temperature(τ)``,
    as those of ``posteriors.RelaxedBernoulli`` and ``posteriors.RelaxedOneHotCategorical`` do.
    Others are left alone.

    Args:
        temperature: τ, above 0, or a 0-dimensional tensor, whose value is not read.
    """

    def __init__(self, temperature: float | int | Tensor) -> None:
        super().__init__()
        if not isinstance(temperature, Tensor):
            owner = "Temperature"
            temperature = number(owner, "temperature", temperature, above=0, fix=_FIX)
        elif temperature.dim():
            got = describe(temperature)
            expected = "a number or a 0-dimensional tensor"
            raise ValueError(f"Temperature: temperature must be {expected}, got {got}")
        self.temperature = temperature

    def __repr__(self) -> str:
        return f"Temperature({self.temperature!r})"

    def _pyro_sample(self, msg: dict) -> None:
        msg["fn"] = _at(msg["fn"], self.temperature)


def _at(fn: Any, temperature: float | int | Tensor) -> Any:
    """Return a distribution at a temperature; itself if it has none."""
    if callable(getattr(fn, "at_temperature", None)):
        return fn.at_temperature(temperature)
    if not isinstance(fn, (Independent, MaskedDistribution, ExpandedDistribution)):
        return fn
    inner = _at(fn.base_dist, temperature)
    if inner is fn.base_dist:
        return fn
    if isinstance(fn, Independent):
        return inner.to_event(fn.reinterpreted_batch_ndims)
    return (
        inner.mask(fn._mask) if isinstance(fn, MaskedDistribution) else inner.expand(fn.batch_shape)
    )


def has_temperature(fn: Any) -> bool:
    """Return whether a distribution, or one that it is made of, has a temperature."""
    return _at(fn, 1.0) is not fn


class TemperatureScheduled(ScheduledELBO):
    r"""Any ELBO, with the gradients of relaxed draws at a temperature that follows the step.

    Each call of ``loss_and_grads`` or ``differentiable_loss`` is one step of the schedule. The
    temperature changes gradients alone: draws and densities are discrete, and the value returned is
    minus the bound of the estimator within, in nats per batch.

    Source: Jang et al. 2017 (arXiv 1611.01144), section 2.1, for annealing τ.

    Args:
        estimator: any ``pyro.infer.ELBO``; also a :class:`KLWeighted`, or give this to one.
        temperature: τ above 0, or a function of the step such as
            ``lambda step: max(0.5, math.exp(-1e-4 * step))``; for resuming a function that is not
            a lambda, such as :func:`linear_warm_up` with ``start=1.0, end=0.5``.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> from ppl_vae.estimators import linear_warm_up
        >>> falling = linear_warm_up(1000, start=1.0, end=0.5)
        >>> TemperatureScheduled(Trace_ELBO(), falling).temperature
        1.0
    """

    quantity = "temperature"
    above = 0

    def __init__(self, estimator: ELBO, temperature: float | int | Schedule) -> None:
        schedule = temperature
        if not callable(schedule):
            owner = "TemperatureScheduled"
            fixed = float(number(owner, "temperature", temperature, above=0, fix=_FIX))
            schedule = WarmUp(1, fixed, fixed)
        super().__init__(estimator, schedule)

    @property
    def temperature(self) -> float:
        """τ of the next step."""
        return self.value_at(self.step)

    def _handler(self, value: float | Tensor) -> Temperature:
        return Temperature(value)
