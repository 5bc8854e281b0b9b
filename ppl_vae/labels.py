"""Integer labels, some perhaps unobserved: checks, one-hot encoding, point masses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.errors import describe
from ppl_vae.module_modes import exporting

INTEGER_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""Those that torch can index with and compare; it supports other unsigned ones in name only."""


class Labels:
    """Checks a batch of labels, and encodes it for networks; model and guide share one.

    Args:
        num_classes: the number of classes.
        name: of the argument, for messages.
    """

    def __init__(self, num_classes: int, name: str = "y") -> None:
        self.num_classes = num_classes
        self.name = name

    def check(self, y: Tensor | None, batch: int, *, missing_too: bool = True) -> bool:
        """Return whether any label is unobserved; True if y is None.

        Reading the values synchronises with the device at every call, except within
        :func:`assume_checked`. ``torch.export`` cannot read them, and assumes that all are
        observed.

        Raises:
            TypeError: if y is not an integer tensor.
            ValueError: if its shape or a value is wrong.
        """
        if y is None:
            return True

        def expected(got: str) -> str:
            labels = f"integer labels from 0 to {self.num_classes - 1}"
            missing = ", -1 where unobserved" if missing_too else ""
            return f"expected {self.name} of shape ({batch},), {labels}{missing}, got {got}"

        if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex():
            raise TypeError(expected(describe(y)))
        if y.dtype == torch.bool and y.dim() > 1:
            raise TypeError(expected(f"{describe(y)}; give a mask by name, mask=mask"))
        if y.layout != torch.strided or y.device.type == "meta":
            raise TypeError(expected(f"{describe(y)}; give a dense tensor with values"))
        if y.dtype not in INTEGER_DTYPES:
            raise TypeError(expected(f"{describe(y)}; convert it with y.long()"))
        if y.shape != (batch,):
            raise ValueError(expected(describe(y)))
        for record in tuple(_records.values()):
            record.append((y, self))
        answers = (pair for given in tuple(_assumptions.values()) for pair in given)
        missing = next((missing for tensor, missing in answers if tensor is y), None)
        if missing is None and exporting():
            return False
        if missing is None:
            # Not with tolist(), which a traced graph would keep as a constant.
            low, high = (int(end) for end in torch.aminmax(y)) if batch else (0, 0)
            if low < -1 or high >= self.num_classes:
                raise ValueError(expected(f"values from {low} to {high}"))
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
                f"{self.name} must hold a label for each datum, got -1; leave out unlabelled data"
            )

    def one_hot(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """Return y one-hot, shape ``(..., num_classes)``."""
        # torch's one_hot reads the values, which synchronises with the device.
        return (y.unsqueeze(-1) == self._classes(y)).to(dtype)

    @staticmethod
    def log_agreement(y: Tensor, label: Tensor, dtype: torch.dtype) -> Tensor:
        """Return log 1[label = y] where y is observed and 0 elsewhere, y and label broadcast.

        A large finite number stands for minus infinity: its exponential is exactly 0, and 0 times
        it is 0, not NaN, in values and in gradients.
        """
        return ((y >= 0) & (label != y)).to(dtype) * (torch.finfo(dtype).min / 16)

    def point_masses(self, y: Tensor, q_y: dist.Categorical) -> dist.Categorical:
        """Return q(y | x) where y, shape ``(batch,)``, is unobserved and a point mass elsewhere."""
        y = y.unsqueeze(-1)
        certain = self.log_agreement(y, self._classes(y), q_y.logits.dtype)
        return dist.Categorical(logits=torch.where(y >= 0, certain, q_y.logits))

    def _classes(self, y: Tensor) -> Tensor:
        return torch.arange(self.num_classes, device=y.device)


# Shared by all threads, since a backward pass may run a program again in a thread of its own.
# Tensors are compared by identity, so that no answer is about another tensor.
_assumptions: dict[object, Sequence[tuple[Tensor, bool]]] = {}
_records: dict[object, list[tuple[Tensor, Labels]]] = {}


@contextmanager
def assume_checked(*answers: tuple[Tensor, bool]) -> Iterator[None]:
    """Within ``with``, assume that these tensors are in range, and whether labels are missing.

    Their values are then not read, which would synchronise with the device, and which is impossible
    while a graph is traced.
    """
    mine = object()
    _assumptions[mine] = answers
    try:
        yield
    finally:
        del _assumptions[mine]


@contextmanager
def recorded_checks() -> Iterator[list[tuple[Tensor, Labels]]]:
    """Yield a list of the tensors checked within ``with``, and what they were checked against."""
    mine = object()
    checks = _records.setdefault(mine, [])
    try:
        yield checks
    finally:
        del _records[mine]
