"""Deferred finiteness checks, to avoid a device synchronisation at each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

INTERVAL = 10
"""Steps between two checks; their data are kept."""


@dataclass(frozen=True)
class StepRecord:
    """A forward and backward pass, and what is needed to repeat or undo it."""

    step: int  # from 0
    inputs: Any
    generators: Mapping[torch.device, Tensor]  # states of the random number generators before it
    restore_buffers: Callable[[], None]
    loss: Tensor  # of this process, shape ()
    total: Tensor  # loss plus gradient norm, shape (): finite if both are


class DeferredChecks:
    """Lets an optimiser step before its gradients are known to be finite.

    A fused optimiser of torch skips a step on the device if its ``found_inf`` is 1; gradient
    scalers for mixed precision rely on that. Here it is 1 from the first step on that is not
    finite, so that the steps after it, taken before the next check, are skipped, too.

    Args:
        optimizer: of which :meth:`supports` is true.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._failed: Tensor | None = None
        self._pending: list[StepRecord] = []

    @staticmethod
    def supports(optimizer: Optimizer, device: torch.device) -> bool:
        """Return whether an immediate check would synchronise, and the optimiser can skip steps."""
        return device.type == "cuda" and getattr(optimizer, "_step_supports_amp_scaling", False)

    @property
    def due(self) -> bool:
        """Whether it is time to check."""
        return len(self._pending) >= INTERVAL

    def step(self, record: StepRecord) -> None:
        """Take the optimiser's step, which the device skips after a failure."""
        failed = torch.logical_not(torch.isfinite(record.total)).float()
        self._failed = failed if self._failed is None else torch.maximum(self._failed, failed)
        self._optimizer.found_inf = self._failed  # type: ignore[attr-defined]
        try:
            self._optimizer.step()
        finally:
            del self._optimizer.found_inf  # type: ignore[attr-defined]
        self._pending.append(record)

    def first_failure(self) -> StepRecord | None:
        """Check the pending steps; return the first that was not finite, if any."""
        if not self._pending:
            return None
        pending, self._pending = self._pending, []
        totals = torch.stack([record.total for record in pending]).tolist()
        found = next(
            (r for r, total in zip(pending, totals, strict=True) if not math.isfinite(total)), None
        )
        if found is not None:
            self._failed = None  # for a caller that continues after the error
        return found
