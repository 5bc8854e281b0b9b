"""Steps that are looked at later, where to look is to wait for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

MOST = 10
"""Steps that are taken between two looks: their data are kept."""


@dataclass(frozen=True)
class Attempt:
    """A forward and a backward pass, and what they began from.

    Args:
        step: which, from 0.
        inputs: its data.
        before: the states of the random number generators.
        put_back: lets buffers be as they were before it.
        loss: of this process, shape ``()``.
        sum: of the loss and the gradient's norm, shape ``()``: finite if both are.
    """

    step: int
    inputs: Any
    before: Mapping[str, Tensor]
    put_back: Callable[[], None]
    loss: Tensor
    sum: Tensor


class Lookout:
    """Lets an optimiser step without a look at the numbers, and keeps NaN out of the weights.

    A fused optimiser of torch leaves weights and state as they are where a tensor, its
    ``found_inf``, is 1: that is how a mixed precision's gradient scaler has a step skipped without
    knowing that it is. Here it is 1 from the first step on that is not finite, so that all those
    that follow before anyone has looked are skipped, too.

    Args:
        optimizer: of which :meth:`suits` is true.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._spoilt: Tensor | None = None
        self._unseen: list[Attempt] = []

    @staticmethod
    def suits(optimizer: Optimizer, device: torch.device) -> bool:
        """Tell whether it can be done, and to look at each step would be to wait."""
        return device.type == "cuda" and getattr(optimizer, "_step_supports_amp_scaling", False)

    @property
    def due(self) -> bool:
        """Whether it is time to look."""
        return len(self._unseen) >= MOST

    def step(self, attempt: Attempt) -> None:
        """Take the optimiser's step, if all was finite so far."""
        spoilt = torch.logical_not(torch.isfinite(attempt.sum)).float()
        self._spoilt = spoilt if self._spoilt is None else torch.maximum(self._spoilt, spoilt)
        self._optimizer.found_inf = self._spoilt  # type: ignore[attr-defined]
        try:
            self._optimizer.step()
        finally:
            del self._optimizer.found_inf  # type: ignore[attr-defined]
        self._unseen.append(attempt)

    def first_spoilt(self) -> Attempt | None:
        """Look, and return the first step that was not finite, if there is one."""
        if not self._unseen:
            return None
        unseen, self._unseen = self._unseen, []
        sums = torch.stack([attempt.sum for attempt in unseen]).tolist()
        found = next((a for a, s in zip(unseen, sums, strict=True) if not math.isfinite(s)), None)
        if found is not None:
            self._spoilt = None  # who goes on after the error begins anew
        return found
