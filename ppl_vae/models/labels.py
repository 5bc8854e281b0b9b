"""Integer labels, some of them perhaps unobserved."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.errors import describe


class Labels:
    """What a batch of labels may be, and how networks see it; model and guide share one."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def check(self, y: Tensor | None, batch: int) -> None:
        """Raise an error that names y, what came and what was expected, if y does not suit."""
        if y is None:
            return
        expected = (
            f"y of shape ({batch},), integer labels from 0 to {self.num_classes - 1}, "
            f"-1 where unobserved"
        )
        if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex():
            raise TypeError(f"expected {expected}, got {describe(y)}")
        if y.dtype == torch.bool:
            raise TypeError(f"expected {expected}, got {describe(y)}; convert it with y.long()")
        if y.shape != (batch,):
            raise ValueError(f"expected {expected}, got {describe(y)}")
        low, high = value_range(y)
        if low < -1 or high >= self.num_classes:
            raise ValueError(f"expected {expected}, got values from {low} to {high}")

    def check_observed(self, y: Tensor | None, batch: int) -> None:
        """Raise an error unless y holds a label for each datum."""
        if y is None:
            raise TypeError(f"expected y of shape ({batch},), a label for each datum, got None")
        self.check(y, batch)
        if some_missing(y):
            raise ValueError("y must hold a label for each datum, got -1 among them")

    def one_hot(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """Return y one-hot, shape ``(..., num_classes)``."""
        # torch's one_hot looks at the values, and so waits for the device.
        return (y.unsqueeze(-1) == self._classes(y)).to(dtype)

    @staticmethod
    def log_agreement(y: Tensor, label: Tensor, dtype: torch.dtype) -> Tensor:
        """Return log 1[label = y] where y is observed and 0 elsewhere, y and label broadcast.

        Minus infinity is a large finite number here: its exponential is exactly 0, and 0 times it
        is 0 and not NaN, in values and in gradients.
        """
        return ((y >= 0) & (label != y)).to(dtype) * (torch.finfo(dtype).min / 16)

    def point_masses(self, y: Tensor, q_y: dist.Categorical) -> dist.Categorical:
        """Return q(y | x) where y, shape ``(batch,)``, is unobserved and a point mass elsewhere."""
        y = y.unsqueeze(-1)
        certain = self.log_agreement(y, self._classes(y), q_y.logits.dtype)
        return dist.Categorical(logits=torch.where(y >= 0, certain, q_y.logits))

    def _classes(self, y: Tensor) -> Tensor:
        return torch.arange(self.num_classes, device=y.device)


def value_range(y: Tensor) -> tuple[int, int]:
    """Return the least and the greatest value of integers, looked at once until they change.

    Looking at values waits for the device, and cannot be a part of a compiled step.
    """
    version, low, high = getattr(y, "range_seen", (None, 0, 0))
    if version != y._version:
        low, high = (int(value) for value in torch.aminmax(y)) if y.numel() else (0, 0)
        y.range_seen = (y._version, low, high)  # type: ignore[attr-defined]
    return low, high


def forget_range(y: Tensor) -> None:
    """Forget that the values were looked at."""
    vars(y).pop("range_seen", None)


def range_known(y: Tensor) -> bool:
    """Tell whether the values were looked at."""
    return hasattr(y, "range_seen")


def some_missing(y: Tensor) -> bool:
    """Tell whether some labels are unobserved."""
    return value_range(y)[0] < 0
