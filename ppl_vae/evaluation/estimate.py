"""A mean over data with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ppl_vae.ascii import for_stdout


@dataclass(frozen=True, repr=False)
class Estimate:
    """A mean over data and its standard error, the variation between test sets of this size.

    Args:
        mean: the mean over data.
        standard_error: standard deviation over data divided by √N; NaN for a single datum.
        count: N, if known; an accuracy does not count data without a label.
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

    def __repr__(self) -> str:
        number = "" if self.count is None else f", count={self.count}"
        return for_stdout(f"Estimate({self.mean:.6g} ± {self.standard_error:.2g}{number})")
