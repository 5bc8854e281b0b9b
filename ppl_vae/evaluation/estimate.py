"""A mean over data with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ppl_vae.ascii import for_stdout


@dataclass(frozen=True)
class Estimate:
    """A mean over data and its standard error, which says how far another test set would differ.

    Args:
        mean: the mean over data.
        standard_error: standard deviation over data divided by √N; NaN for a single datum.
        count: N, where it is known: data without a label are no part of a share of right answers.
    """

    mean: float
    standard_error: float
    count: int | None = None

    @classmethod
    def of(cls, values: Tensor) -> Estimate:
        """Return the mean of ``values``, shape ``(N,)``, and its standard error, in float64."""
        values = values.double()
        error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(values.mean().item(), error, len(values))

    def __str__(self) -> str:
        return for_stdout(f"{self.mean:.2f} ± {self.standard_error:.2f}")
