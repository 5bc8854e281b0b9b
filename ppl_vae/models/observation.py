"""Checks that x is compatible with the likelihood, and the site ``x`` itself."""

from __future__ import annotations

from typing import Any, Protocol, cast

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
"""Supports that are intervals: checking the extremes of x checks all its values."""

_INTEGERS = (type(constraints.nonnegative_integer), constraints.integer_interval)
"""Supports of integers other than {0, 1}."""


def autograd_safe(x: Tensor) -> Tensor:
    """Return x, or a copy of an inference tensor, which autograd cannot save for backward."""
    return x.clone() if torch.is_grad_enabled() and x.is_inference() else x


class TracksData(Protocol):
    """A likelihood with running statistics of the data, like batch normalisation."""

    def update_running_statistics(self, p_x: Distribution, x: Tensor, mask: Tensor | None) -> None:
        """Update buffers by x, observed under p(x | z) where the mask, if any, is True.

        Called after p(x | z) was computed, in training mode with gradients enabled; the backward
        pass through p(x | z) must not need the old buffers.
        """


class Observation:
    """The shape and support of one datum, shared by the model and guide of a pair.

    Shapes are checked at every call, values unless under ``pyro.enable_validation(False)``;
    ``likelihood`` is a name, for messages. The guide sees missing entries as NaN if
    ``guide_reads_missing`` (all its networks of x say ``reads_missing``), else filled.
    """

    def __init__(
        self,
        event_shape: Size,
        support: Constraint,
        likelihood: str,
        *,
        guide_reads_missing: bool = False,
    ) -> None:
        self.event_shape = event_shape
        self.support = support
        self.likelihood = likelihood
        self.guide_reads_missing = guide_reads_missing
        self.filling = self._value_in_support()

    @property
    def is_boolean(self) -> bool:
        """Whether the support is {0, 1}."""
        return isinstance(self.element, type(constraints.boolean))  # a copy is another object

    @property
    def is_integer(self) -> bool:
        """Whether the support is integers other than {0, 1}, such as counts."""
        return isinstance(self.element, _INTEGERS)

    @property
    def is_discrete(self) -> bool:
        """Whether p(x | z) is a mass, not a density."""
        return bool(self.support.is_discrete)

    @property
    def levels(self) -> int | None:
        """The number of grey levels in [0, 1] of an entry of x; None for other supports."""
        return 2 if self.is_boolean else getattr(self.element, "levels", None)

    @property
    def element(self) -> Constraint:
        """The support of one entry of a datum."""
        return getattr(self.support, "base_constraint", self.support)

    def sample(
        self, likelihood: nn.Module, p_x: Distribution, x: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """Make the site ``x``: drawn if x is None, else scored where observed; return its value."""
        if x is not None:
            x = self.filled(x, mask)
            learning = likelihood.training and torch.is_grad_enabled()
            # isinstance of a protocol takes as long as a small matrix product.
            if learning and hasattr(likelihood, "update_running_statistics"):
                cast(TracksData, likelihood).update_running_statistics(p_x, x, mask)
            if mask is not None:
                p_x = self.masked(p_x, autograd_safe(mask))
        return pyro.sample("x", p_x, obs=x)

    def mean_of(self, owner: str, p_x: Distribution) -> Tensor:
        """Return E[x | z]; raise NotImplementedError, naming the likelihood, if not in closed form.

        ``owner`` is the method that was called.
        """
        try:
            return p_x.mean
        except NotImplementedError as error:
            raise NotImplementedError(
                f"{owner}: the mean of the {self.likelihood} likelihood has no closed form; draw "
                f"x, pair.likelihood(...).sample(), or leave mean=True out, and average draws"
            ) from error

    def filled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return x with a value of the support (0 if possible) where it is not observed."""
        if mask is None:
            return autograd_safe(x)
        filling = self.filling
        return torch.where(
            mask, x, filling if isinstance(filling, float) else x.new_tensor(filling)
        )

    def guide_input(self, x: Tensor, mask: Tensor | None, *, values: bool = True) -> Tensor:
        """Check x, its values too unless told not to, and return it as the guide sees it."""
        self.check_shape(x)
        if mask is not None:
            self.check_mask(x, mask)
        if values and is_validation_enabled():
            self.check_values(self.filled(x, mask))
        return self.seen_by_guide(x, mask)

    def seen_by_guide(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return x with NaN where it is not observed if the guide reads missing, else filled."""
        if mask is None or not self.guide_reads_missing:
            return self.filled(x, mask)
        return torch.where(mask, x, torch.nan)

    def batch_size(
        self,
        x: Tensor | None,
        mask: Tensor | None = None,
        size: int | None = None,
        context: Tensor | None = None,
    ) -> int:
        """Check the arguments of a model and return the number of data.

        If x is not observed it is ``size``, or the length of the context, or 1.
        """
        if x is None:
            if mask is not None:
                raise ValueError("mask marks observed entries of x, got None for x; give x with it")
            if size is None:
                size = len(context) if isinstance(context, Tensor) and context.dim() else 1
            return positive_int("model", "size", size)
        if size is not None:
            got = f"but x is given ({describe(x)}); leave one of them out"
            raise ValueError(f"size={size} is the number of data to draw without x, {got}")
        self.check(x, mask)
        return x.shape[0]

    def check(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Raise an error unless x, where observed, is in the support and has the event shape."""
        self.guide_input(x, mask)

    def check_shape(self, x: Tensor) -> None:
        """Raise an error unless x is a floating-point tensor ``(batch, *event_shape)``."""
        expected = self._expected
        if not isinstance(x, Tensor) or not x.is_floating_point():
            fix = "pass a ppl_vae.data.Dataset as dataset.tensor()"
            if isinstance(x, Tensor):
                fix = "convert counts with x.float(), or put pixels in a ppl_vae.data.Dataset"
            raise TypeError(
                f"x must be a floating-point tensor, {expected}, got {describe(x)}; {fix}"
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

    @property
    def _expected(self) -> str:
        return f"x of shape (batch, {', '.join(map(str, self.event_shape))})"

    def arranged(self, x: Tensor) -> Tensor:
        """Return x reshaped to the event shape from its flat form, or flattened, or raise."""
        if x.dim() > 1 and same_event(x.shape[1:], self.event_shape):
            return x.reshape(len(x), *self.event_shape)
        self.check_shape(x)
        return x

    def prepared(self, data: Any) -> Any:
        """Return a :class:`ppl_vae.data.Dataset` with images in the event shape, counts unscaled.

        For a likelihood of flat data the shape is kept: batches are flattened when drawn.
        """
        if self.is_integer:
            data = data.as_counts()
        images = len(self.event_shape) > 1 and data.event_shape != tuple(self.event_shape)
        if images and same_event(data.event_shape, self.event_shape):
            data = data.arranged(self.event_shape)
        return data

    def check_values(self, x: Tensor) -> None:
        """Raise an error if values of x are not finite or outside the support."""
        if x.device.type == "meta":
            raise TypeError(f"expected {self._expected} with values, got {describe(x)}")
        x = x.detach()
        if self._all_in_support(x):
            return
        finite = torch.isfinite(x)
        if not finite.all():
            bad = f"{int((~finite).sum())} non-finite values (NaN or infinity) of {x.numel()}"
            raise ValueError(
                f"x has {bad}; impute them, or pass mask= with False where x is missing"
            )
        inside = self.support.check(x)
        if inside.all():
            return
        if (supports := getattr(self.element, "supports", None)) is not None:
            entries = self.element.check(x)
            row, column = (~entries).nonzero()[0].tolist()
            raise ValueError(
                f"x[{row}, {column}] = {x[row, column].item():.6g} lies outside the support of "
                f"column {column} ({supports[column]}), and so do {int((~entries).sum())} of "
                f"{x.numel()} entries; correct them, or pass mask= with False there"
            )
        advice = ""
        if self.is_boolean:
            advice = (
                "; put grey values in a ppl_vae.data.Dataset, with their scale, to binarise them, "
                "or choose another likelihood= (ContinuousBernoulli for grey values, Poisson or "
                "NegativeBinomial for counts, Normal for real values)"
            )
        elif self.is_integer:
            advice = (
                "; counts are whole numbers that no scale divides: give integers of your own, "
                "without a scale, or choose another likelihood= (Normal for real values)"
            )
        elif x.max() > 1 and self.support.check(x.new_zeros(self.event_shape)).all():
            advice = "; values are divided by the data's scale: give it, the value that becomes 1"
        kind = str(self.element).removesuffix("()")
        raise ValueError(
            f"x lies outside the support of the {self.likelihood} likelihood ({kind}) for "
            f"{int((~inside).sum())} of {x.shape[0]} data; its values go from "
            f"{x.min().item():.4g} to {x.max().item():.4g}{advice}"
        )

    def _all_in_support(self, x: Tensor) -> bool:
        """Return whether all values are finite and in the support, in as few passes as possible.

        Comparing entries takes ten times as long as finding the extremes.
        """
        if self.is_boolean:
            # x - x² is 0 for 0 and 1 only, in floating point too.
            rest = torch.stack(torch.aminmax(torch.addcmul(x, x, x, value=-1)))
            return not rest.any().item()  # NaN (also from infinity) is not 0
        ends, element = torch.stack(torch.aminmax(x)), self.element
        if not ends.isfinite().all().item():
            return False
        if isinstance(element, _INTERVALS) and not any(
            isinstance(bound, Tensor) for bound in vars(element).values()
        ):
            return bool(element.check(ends).all())
        return bool(self.support.check(x).all())

    def accepts_anywhere(self, values: Tensor) -> bool:
        """Return whether values, in any shape, are in the support as any entry of a datum.

        False, too, if entries may differ in their supports, or by their neighbours.
        """
        element = self.element
        if not isinstance(element, (*_INTERVALS, *_INTEGERS, type(constraints.boolean))):
            return False
        if any(isinstance(bound, Tensor) for bound in vars(element).values()):
            return False
        return bool((element.check(values) & values.isfinite()).all())

    def check_mask(self, x: Tensor, mask: Tensor) -> None:
        """Raise an error unless the mask is a boolean tensor of x's shape.

        NotImplementedError is raised if single entries cannot be left out, as with one-hot words.
        """
        if self.element.event_dim:
            raise NotImplementedError(self._not_factorised())
        expected = f"mask of shape {tuple(x.shape)}, like x, True where x is observed"
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"expected a boolean {expected}, got {describe(mask)}")
        if mask.layout != torch.strided:
            raise TypeError(f"expected a {expected}, got {mask.layout}; give mask.to_dense()")
        if mask.device != x.device:
            where = f"got mask on {mask.device} and x on {x.device}"
            raise ValueError(f"expected a {expected}, {where}; move one with .to(device)")
        if mask.shape != x.shape:
            fix = "mask.expand_as(x) repeats one mask for all data"
            raise ValueError(f"expected a {expected}, got {describe(mask)}; {fix}")

    def masked(self, p_x: Distribution, mask: Tensor) -> Distribution:
        """Return p(x | z) with the entries that are not observed marginalised out."""
        elements: Any = p_x.base_dist if isinstance(p_x, dist.Independent) else p_x
        count = len(self.event_shape)
        if elements.event_shape or elements.batch_shape[-count:] != self.event_shape:
            raise NotImplementedError(self._not_factorised())
        return elements.mask(mask).to_event(count)

    def _not_factorised(self) -> str:
        return (
            f"mask: the {self.likelihood} likelihood does not factorise over the entries of x, so "
            f"missing ones cannot be left out; use one that does, such as Normal"
        )

    def _value_in_support(self) -> float | tuple[float, ...]:
        """Return one value, or one for each entry where the support has them."""
        if (own := getattr(self.element, "filling", None)) is not None:
            return own
        candidates = (0.0, 1.0, 0.5)
        return next(
            (v for v in candidates if self.support.check(torch.full(self.event_shape, v)).all()),
            0.0,
        )
