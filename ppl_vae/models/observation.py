"""What may be observed: the check that x suits the likelihood, before anything runs."""

from __future__ import annotations

import weakref

import torch
from pyro.infer.util import is_validation_enabled
from torch import Size, Tensor
from torch.distributions.constraints import Constraint

from ppl_vae.errors import describe


class Observation:
    """The shape and support of one datum; model and guide of a pair share one.

    Shapes are checked at every call. Values are looked at once per tensor, and not at all under
    ``pyro.enable_validation(False)``, since that reads the whole batch.

    Args:
        event_shape: shape of one datum.
        support: where the likelihood has a density, as torch's constraint on one datum.
        likelihood: the likelihood's name, for messages.
    """

    def __init__(self, event_shape: Size, support: Constraint, likelihood: str) -> None:
        self.event_shape = event_shape
        self.support = support
        self.likelihood = likelihood
        self._seen: tuple[weakref.ref[Tensor], int] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_seen": None}  # weak references cannot be pickled or copied

    def check(self, x: Tensor) -> None:
        """Raise an error that names x, what came and what was expected, if x does not suit."""
        self.check_shape(x)
        if is_validation_enabled():
            self._check_values(x)

    def check_shape(self, x: Tensor) -> None:
        """Raise an error if x is no floating-point tensor of shape ``(batch, *event_shape)``."""
        expected = f"x of shape (batch, {', '.join(map(str, self.event_shape))})"
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(
                f"x must be a floating-point tensor, {expected}, got {describe(x)}; "
                f"convert integer pixels with x.float() / 255, and binarise them for a Bernoulli"
            )
        if x.dim() != 1 + len(self.event_shape) or x.shape[1:] != self.event_shape:
            raise ValueError(
                f"expected {expected}, from the output of the likelihood's network, got "
                f"{describe(x)}; reshape x or give networks of its width"
            )
        if x.shape[0] == 0:
            raise ValueError(f"expected {expected} with at least one datum, got {describe(x)}")

    def _check_values(self, x: Tensor) -> None:
        if self._seen is not None and self._seen[0]() is x and self._seen[1] == x._version:
            return
        finite = torch.isfinite(x)
        if not finite.all():
            raise ValueError(
                f"x has {int((~finite).sum())} non-finite values (NaN or infinity) of {x.numel()}; "
                f"remove or impute them first"
            )
        inside = self.support.check(x)
        if not inside.all():
            kind = str(getattr(self.support, "base_constraint", self.support)).removesuffix("()")
            advice = (
                "; binarise grey values (ppl_vae.data does), or use a likelihood of real values"
                if kind == "Boolean"
                else ""
            )
            raise ValueError(
                f"x lies outside the support of the {self.likelihood} likelihood ({kind}) for "
                f"{int((~inside).sum())} of {x.shape[0]} data; its values go from "
                f"{x.min().item():.4g} to {x.max().item():.4g}{advice}"
            )
        self._seen = (weakref.ref(x), x._version)
