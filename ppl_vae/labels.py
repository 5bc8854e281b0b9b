"""Integer labels, some of them perhaps unobserved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.errors import describe
from ppl_vae.module_modes import exporting

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""What torch can look up and compare; it has other unsigned ones in name only."""


class Labels:
    """What a batch of labels may be, and how networks see it; model and guide share one.

    Args:
        num_classes: how many classes there are.
        name: of the argument, for messages.
    """

    def __init__(self, num_classes: int, name: str = "y") -> None:
        self.num_classes = num_classes
        self.name = name

    def check(self, y: Tensor | None, batch: int, *, missing_too: bool = True) -> bool:
        """Return whether some labels are unobserved: all of them, where y is None.

        Values are looked at in every call, which waits for the device; within :func:`known` what
        was seen before is the answer. ``torch.export`` cannot look: all are taken for observed.

        Raises:
            TypeError: if y is no tensor of integers. The error names y, what came and what was
                expected.
            ValueError: if its shape or a value is wrong.
        """
        if y is None:
            return True
        expected = (
            f"{self.name} of shape ({batch},), integer labels from 0 to {self.num_classes - 1}"
            f"{', -1 where unobserved' if missing_too else ''}"
        )
        if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex():
            raise TypeError(f"expected {expected}, got {describe(y)}")
        if y.dtype == torch.bool and y.dim() > 1:
            raise TypeError(
                f"expected {expected}, got {describe(y)}; a mask is given by name, mask=mask"
            )
        if y.layout != torch.strided or y.device.type == "meta":
            raise TypeError(f"expected {expected}, a dense tensor with values, got {describe(y)}")
        if y.dtype not in INTEGERS:
            raise TypeError(f"expected {expected}, got {describe(y)}; convert it with y.long()")
        if y.shape != (batch,):
            raise ValueError(f"expected {expected}, got {describe(y)}")
        for look in tuple(_looks):
            look.asked.append((y, self))
        missing = next((m for k in tuple(_known) for t, m in k.answers if t is y), None)
        if missing is None and exporting():
            return False
        if missing is None:
            # Not with tolist(), which goes on while a graph is traced, and is fixed in it.
            low, high = (int(end) for end in torch.aminmax(y)) if batch else (0, 0)
            if low < -1 or high >= self.num_classes:
                raise ValueError(f"expected {expected}, got values from {low} to {high}")
            missing = low < 0
        return missing

    def check_observed(self, y: Tensor | None, batch: int) -> None:
        """Raise an error unless y holds a label for each datum."""
        if y is None:
            raise TypeError(
                f"expected {self.name} of shape ({batch},), a label for each datum, got None"
            )
        if self.check(y, batch, missing_too=False):
            raise ValueError(
                f"{self.name} must hold a label for each datum, got -1 among them; leave out data "
                f"without one"
            )

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


class _Known:
    def __init__(self, answers: Sequence[tuple[Tensor, bool]]) -> None:
        self.answers = answers


class _Looks:
    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, Labels]] = []


# Of all threads, since a backward pass may run a program again in one of its own. What is in them
# is compared by identity, so that none is given an answer about other tensors than it asked for.
_known: list[_Known] = []
_looks: list[_Looks] = []


@contextmanager
def known(*answers: tuple[Tensor, bool]) -> Iterator[None]:
    """Say of these very tensors whether labels are missing among them: nobody looks at them within.

    They were looked at just before, and are in the range. A look waits for the device, and is not
    possible while a graph is traced.
    """
    mine = _Known(answers)
    _known.append(mine)
    try:
        yield
    finally:
        _known.remove(mine)


@contextmanager
def looks() -> Iterator[list[tuple[Tensor, Labels]]]:
    """Yield a list of the tensors that are asked about within, and what they must be."""
    mine = _Looks()
    _looks.append(mine)
    try:
        yield mine.asked
    finally:
        _looks.remove(mine)
