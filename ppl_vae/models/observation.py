"""What may be observed: the check that x suits the likelihood, and the site ``x`` itself."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from ppl_vae.errors import describe, positive_int
from ppl_vae.event_shapes import how_to_arrange, same_event

_INTERVALS = tuple(
    c if isinstance(c, type) else type(c)
    for c in (
        constraints.real,
        constraints.interval,
        constraints.half_open_interval,
        constraints.greater_than,
        constraints.greater_than_eq,
        constraints.less_than,
    )
)
"""Supports that hold all values between two that they hold."""

_INTEGERS = (type(constraints.nonnegative_integer), constraints.integer_interval)
"""Supports of integers, other than of 0 and 1 alone."""


def ordinary(x: Tensor) -> Tensor:
    """Return x, or a copy if it was made under ``torch.inference_mode()`` and there are gradients.

    Autograd refuses to keep such a tensor for a backward pass.
    """
    return x.clone() if torch.is_grad_enabled() and x.is_inference() else x


@runtime_checkable
class Follows(Protocol):
    """A likelihood that learns from what is observed otherwise than by gradients, too."""

    def follow(self, p_x: Distribution, x: Tensor, mask: Tensor | None) -> None:
        """Learn from x, observed under p(x | z) where the mask, if any, is True.

        Called after p(x | z) was computed, for a likelihood in training mode, with gradients: it
        may move buffers, which p(x | z) must not hold for the backward pass.
        """


class Observation:
    """The shape and support of one datum; model and guide of a pair share one.

    Shapes are checked at every call, and values, too, but for calls under
    ``pyro.enable_validation(False)``.

    Args:
        event_shape: shape of one datum.
        support: where the likelihood has a density, as torch's constraint on one datum.
        likelihood: the likelihood's name, for messages.
    """

    def __init__(self, event_shape: Size, support: Constraint, likelihood: str) -> None:
        self.event_shape = event_shape
        self.support = support
        self.likelihood = likelihood
        self.filling = self._inside()

    @property
    def is_boolean(self) -> bool:
        """Whether the likelihood is one of 0 and 1."""
        return isinstance(self.element, type(constraints.boolean))  # a copy is another object

    @property
    def is_integer(self) -> bool:
        """Whether the likelihood is one of integers as they are, such as counts."""
        return isinstance(self.element, _INTEGERS)

    @property
    def is_discrete(self) -> bool:
        """Whether p(x | z) is a mass, and no density."""
        return bool(self.support.is_discrete)

    @property
    def levels(self) -> int | None:
        """How many values in [0, 1] an entry of x may have; None where they are not so."""
        return 2 if self.is_boolean else getattr(self.element, "levels", None)

    @property
    def element(self) -> Constraint:
        """The support of one entry of a datum."""
        return getattr(self.support, "base_constraint", self.support)

    def sample(
        self, likelihood: nn.Module, p_x: Distribution, x: Tensor | None, mask: Tensor | None
    ) -> None:
        """Make the site ``x``: drawn where x is None, scored where it is given and observed."""
        if x is not None:
            x = self.filled(x, mask)
            if likelihood.training and torch.is_grad_enabled() and isinstance(likelihood, Follows):
                likelihood.follow(p_x, x, mask)
            if mask is not None:
                p_x = self._masked(p_x, ordinary(mask))
        pyro.sample("x", p_x, obs=x)

    def filled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return x with a harmless value of the support where it is not observed."""
        return ordinary(x) if mask is None else torch.where(mask, x, self.filling)

    def seen(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return x as a guide sees it, or raise an error as `check` does."""
        self.check(x, mask)
        return self.filled(x, mask)

    def batch_size(
        self,
        x: Tensor | None,
        mask: Tensor | None = None,
        size: int | None = None,
        context: Tensor | None = None,
    ) -> int:
        """Check what a model is called with, and return the number of data.

        Where x is not observed it is ``size``, or that of the context, or 1.

        Raises:
            TypeError: if x or the mask is no tensor of the right kind.
            ValueError: if a shape is wrong, a value is not finite or outside the support, or both
                or none of x and size are given.
        """
        if x is None:
            if mask is not None:
                raise ValueError("a mask says which entries of x are observed; give x with it")
            if size is None:
                size = len(context) if isinstance(context, Tensor) and context.dim() else 1
            return positive_int("model", "size", size)
        if size is not None:
            raise ValueError(
                f"size={size} says how many data to draw where x is not observed, but x is given "
                f"({describe(x)}); leave one of them out"
            )
        self.check(x, mask)
        return x.shape[0]

    def check(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Raise an error that names x, what came and what was expected, if x does not suit."""
        self.check_shape(x)
        if mask is not None:
            self.check_mask(x, mask)
            x = self.filled(x, mask)
        if is_validation_enabled():
            self.check_values(x)

    def check_shape(self, x: Tensor) -> None:
        """Raise an error if x is no floating-point tensor of shape ``(batch, *event_shape)``."""
        expected = f"x of shape (batch, {', '.join(map(str, self.event_shape))})"
        if not isinstance(x, Tensor):
            raise TypeError(
                f"x must be a floating-point tensor, {expected}, got {describe(x)}; of a "
                f"ppl_vae.data.Dataset give dataset.tensor()"
            )
        if not x.is_floating_point():
            raise TypeError(
                f"x must be a floating-point tensor, {expected}, got {describe(x)}; convert counts "
                f"with x.float() and pixels with x.float() / 255 (and binarise them for a "
                f"Bernoulli, dequantise them for a density)"
            )
        if x.layout != torch.strided:
            raise TypeError(f"expected {expected}, got one of {x.layout}; give x.to_dense()")
        if x.dim() != 1 + len(self.event_shape) or x.shape[1:] != self.event_shape:
            raise ValueError(
                f"expected {expected}, from the output of the likelihood's network, got "
                f"{describe(x)}; {how_to_arrange(x.shape[1:], self.event_shape)}"
            )
        if x.shape[0] == 0:
            raise ValueError(f"expected {expected} with at least one datum, got {describe(x)}")

    def arranged(self, x: Tensor) -> Tensor:
        """Return data in the declared shape, from the flat form, or flattened in their own order.

        Raises:
            ValueError: if they have another shape.
        """
        if x.dim() > 1 and same_event(x.shape[1:], self.event_shape):
            return x.reshape(len(x), *self.event_shape)
        self.check_shape(x)
        return x

    def suited(self, data: Any) -> Any:
        """Return a data set as the likelihood has it: in the declared shape, and counts unscaled.

        Of another shape it is returned as it is, and so it is for flat data, for which batches are
        flattened when they are drawn.

        Args:
            data: a :class:`ppl_vae.data.Dataset`.
        """
        if self.is_integer:
            data = data.as_counts()
        images = len(self.event_shape) > 1 and data.event_shape != tuple(self.event_shape)
        if images and same_event(data.event_shape, self.event_shape):
            data = data.arranged(self.event_shape)
        return data

    def check_values(self, x: Tensor) -> None:
        """Raise an error that says how many values of x are not finite or outside the support."""
        if x.device.type == "meta":
            expected = f"x of shape (batch, {', '.join(map(str, self.event_shape))})"
            raise TypeError(f"expected {expected} with values, got {describe(x)}")
        x = x.detach()
        if self._suits(x):
            return
        finite = torch.isfinite(x)
        if not finite.all():
            raise ValueError(
                f"x has {int((~finite).sum())} non-finite values (NaN or infinity) of {x.numel()}; "
                f"remove or impute them, or pass mask= with False where x is missing"
            )
        inside = self.support.check(x)
        if not inside.all():
            kind = str(self.element).removesuffix("()")
            advice = ""
            if self.is_boolean:
                advice = (
                    "; grey values in a ppl_vae.data.Dataset, with their scale, are binarised; or "
                    "give likelihood= of such values (ContinuousBernoulli for grey values, Poisson "
                    "or NegativeBinomial for counts, Normal for real values)"
                )
            elif self.is_integer:
                advice = (
                    "; counts are whole numbers as they are: leave out the scale of the data, or "
                    "use the likelihood of such values (Normal for real ones)"
                )
            elif x.max() > 1 and self.support.check(x.new_zeros(self.event_shape)).all():
                advice = "; it is of values / scale: give the data's scale, the value that means 1"
            raise ValueError(
                f"x lies outside the support of the {self.likelihood} likelihood ({kind}) for "
                f"{int((~inside).sum())} of {x.shape[0]} data; its values go from "
                f"{x.min().item():.4g} to {x.max().item():.4g}{advice}"
            )

    def _suits(self, x: Tensor) -> bool:
        """Tell whether all values are finite and inside the support, in as few passes as it takes.

        Comparing entry by entry takes ten times as long as finding the least and the greatest, in
        which NaN and infinity show as well.
        """
        if self.is_boolean:
            # x - x² is 0 for 0 and 1 alone, in floating-point numbers too.
            rest = torch.stack(torch.aminmax(torch.addcmul(x, x, x, value=-1)))
            return not rest.any().item()  # NaN is not 0, and infinity gives it
        ends, element = torch.stack(torch.aminmax(x)), self.element
        if not ends.isfinite().all().item():
            return False
        if isinstance(element, _INTERVALS) and not any(
            isinstance(bound, Tensor) for bound in vars(element).values()
        ):
            return bool(element.check(ends).all())
        return bool(self.support.check(x).all())

    def check_mask(self, x: Tensor, mask: Tensor) -> None:
        """Raise an error that names the mask if it is no boolean tensor of x's shape.

        Or if single entries of x cannot be left out, as those of one-hot words cannot.
        """
        if self.element.event_dim:
            raise NotImplementedError(self._one_by_one())
        expected = f"mask of shape {tuple(x.shape)}, as x, True where x is observed"
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"expected a boolean {expected}, got {describe(mask)}")
        if mask.shape != x.shape:
            raise ValueError(
                f"expected a {expected}, got {describe(mask)}; give one entry for each entry of x "
                f"(mask.expand_as(x) repeats one for all data)"
            )

    def _masked(self, p_x: Distribution, mask: Tensor) -> Distribution:
        """Return p(x | z) with the entries that are not observed marginalised out."""
        elements: Any = p_x.base_dist if isinstance(p_x, dist.Independent) else p_x
        count = len(self.event_shape)
        if elements.event_shape or elements.batch_shape[-count:] != self.event_shape:
            raise NotImplementedError(self._one_by_one())
        return elements.mask(mask).to_event(count)

    def _one_by_one(self) -> str:
        return (
            f"mask: the {self.likelihood} likelihood does not factorise over the entries of x, so "
            f"that missing ones cannot be left out; use one that does, such as Normal"
        )

    def _inside(self) -> float:
        candidates = (0.0, 1.0, 0.5)
        return next(
            (v for v in candidates if self.support.check(torch.full(self.event_shape, v)).all()),
            0.0,
        )
