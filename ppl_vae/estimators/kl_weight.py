"""β: a weight on the KL, as an effect handler on model and guide, constant or warmed up."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.errors import describe, positive_int

Schedule = Callable[[int], float]
"""β as a function of the step, 0 for the first."""


class KLWeight(Messenger):
    """Scale the densities of latent sites by β; to be used on the model and on the guide.

    β log p(z) - β log q(z) is -β KL in expectation; observed sites keep their weight.
    ``poutine.scale`` scales them too, and refuses 0, with which a warm-up starts.

    Args:
        beta: β, at least 0; a 0-dimensional tensor serves as well, and is not looked at.
    """

    def __init__(self, beta: float | int | Tensor) -> None:
        super().__init__()
        if not isinstance(beta, Tensor) and not 0 <= beta < float("inf"):
            raise ValueError(f"KLWeight: beta must be finite and at least 0, got {describe(beta)}")
        self.beta = beta

    def _pyro_sample(self, msg: dict) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["scale"] = msg["scale"] * self.beta


class KLWeighted(ELBO):
    r"""Any ELBO with a weight on the KL: E_q [log p(x|z)] - β KL(q(z|x) ‖ p(z)).

    Each call of ``loss_and_grads`` or ``differentiable_loss`` is one step of the schedule, and
    returns minus the weighted objective in nats per batch. ``loss`` (``svi.evaluate_loss``) ignores
    β: what is reported is a bound on log p(x).

    Source: Higgins et al. 2017 (β-VAE, ICLR 2017), equation 4; Bowman et al. 2016 (arXiv
    1511.06349), section 3.1, for the warm-up.

    Args:
        estimator: any ``pyro.infer.ELBO``.
        beta: β, or a schedule of it such as :func:`linear_warm_up`.
        total_steps: the length of the training, if known: a warm-up that is longer is reported.

    Example:
        >>> from pyro.infer import Trace_ELBO
        >>> elbo = KLWeighted(Trace_ELBO(), linear_warm_up(1000), total_steps=20_000)
        >>> elbo.beta
        0.0
    """

    def __init__(
        self, estimator: ELBO, beta: float | int | Schedule, *, total_steps: int | None = None
    ) -> None:
        super().__init__()
        self.estimator = estimator
        self.schedule = beta if callable(beta) else constant(beta)
        self.step = 0
        """The steps taken so far; set it when resuming."""
        self._handler = KLWeight(0.0)
        self._weighted: tuple[tuple[Callable, Callable], tuple[Callable, Callable]] | None = None
        if total_steps is not None:
            self._report_unfinished(positive_int("KLWeighted", "total_steps", total_steps))

    @property
    def beta(self) -> float:
        """β of the next step."""
        return self.schedule(self.step)

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return minus the weighted objective and take one step of the schedule."""
        weighted = self._advance(model, guide)
        return self.estimator.differentiable_loss(*weighted, *args, **kwargs)

    def loss_and_grads(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Tensor | float:
        """Return minus the weighted objective, with gradients, and take one step."""
        weighted = self._advance(model, guide)
        return self.estimator.loss_and_grads(*weighted, *args, **kwargs)

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Return minus the bound, β being 1."""
        return self.estimator.loss(model, guide, *args, **kwargs)

    def _advance(self, model: Callable, guide: Callable) -> tuple[Callable, Callable]:
        """Return the programs under the step's β and take the step."""
        self._handler.beta = self.beta
        self.step += 1
        # The same wrapped programs at each step: estimators remember what they found of them.
        if self._weighted is None or self._weighted[0] != (model, guide):
            self._weighted = (model, guide), (self._handler(model), self._handler(guide))
        return self._weighted[1]

    def _report_unfinished(self, total_steps: int) -> None:
        last, later = self.schedule(total_steps - 1), self.schedule(10 * total_steps)
        if last < later:
            warnings.warn(
                f"KLWeighted: the warm-up is longer than the training: at the last of "
                f"{total_steps} steps beta is {last:.3g}, and it would go on to {later:.3g}",
                stacklevel=3,
            )

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> None:
        raise NotImplementedError("KLWeighted leaves traces to the estimator it wraps")


def constant(beta: float | int) -> Schedule:
    """Return the schedule that is β at every step."""
    KLWeight(beta)  # refuses what is no weight
    return lambda step: float(beta)


def linear_warm_up(steps: int, *, start: float | int = 0.0, end: float | int = 1.0) -> Schedule:
    """Return the schedule that goes from ``start`` to ``end`` in a line over ``steps`` steps.

    Source: Sønderby et al. 2016 (arXiv 1602.02282), section 2.3.
    """
    positive_int("linear_warm_up", "steps", steps)
    return lambda step: start + (end - start) * min(step / steps, 1.0)


def cyclical_warm_up(
    period: int, *, rising: float = 0.5, start: float | int = 0.0, end: float | int = 1.0
) -> Schedule:
    """Return the schedule that warms up anew every ``period`` steps, in the first ``rising`` part.

    Source: Fu et al. 2019 (arXiv 1903.10145), equation 6.
    """
    positive_int("cyclical_warm_up", "period", period)
    if not 0 < rising <= 1:
        raise ValueError(f"cyclical_warm_up: rising must be above 0, at most 1, got {rising}")
    return lambda step: start + (end - start) * min((step % period) / (period * rising), 1.0)
