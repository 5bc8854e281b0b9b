"""Numbers with their errors and units, as they are printed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ppl_vae.evaluation.estimate import Estimate


@dataclass(frozen=True)
class Quantity:
    """One number of one pair.

    Args:
        value: unrounded; NaN if it was not computed, and ``text`` says why.
        standard_error: None if there is none.
        unit: such as ``"nats"``; empty for counts.
        text: the number as it is printed.
    """

    value: int | float
    standard_error: float | None
    unit: str
    text: str

    def as_json(self) -> dict[str, object]:
        """Return the quantity as JSON, with null for numbers that are not finite."""
        value, error = (
            x if x is not None and math.isfinite(x) else None
            for x in (self.value, self.standard_error)
        )
        return {"value": value, "standard_error": error, "unit": self.unit, "text": self.text}


def nats(estimate: Estimate) -> Quantity:
    """Return a quantity in nats per datum."""
    return Quantity(estimate.mean, estimate.standard_error, "nats", _proper_minus(str(estimate)))


def bits(estimate: Estimate) -> Quantity:
    """Return a quantity in bits per dimension."""
    text = _proper_minus(f"{estimate.mean:.4f} ± {estimate.standard_error:.4f}")
    return Quantity(estimate.mean, estimate.standard_error, "bits per dimension", text)


def share(estimate: Estimate, interval: tuple[float, float]) -> Quantity:
    """Return a share in percent with its 95 % interval."""
    text = f"{100 * estimate.mean:.1f} % ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    return Quantity(estimate.mean, estimate.standard_error, "share", text)


def measured(estimate: Estimate, unit: str = "") -> Quantity:
    """Return a number with its standard error, of which two digits are shown."""
    value, error = estimate.mean, estimate.standard_error
    if math.isfinite(error) and error > 0:
        digits = max(0, 1 - math.floor(math.log10(error)))
        text = f"{value:.{digits}f} ± {error:.{digits}f}"
    else:
        text = f"{value:.3g}"
    return Quantity(value, error, unit, _proper_minus(text))


def probability(value: float, error: float | None = None) -> Quantity:
    """Return a p-value, with its standard error if it has one."""
    if error is not None:
        text = f"{value:.3f} ± {error:.3f}"
    else:
        text = f"{value:.3f}" if value >= 0.0005 else f"{value:.1g}"
    return Quantity(value, error, "p-value", _proper_minus(text))


def plain(value: float, digits: int, unit: str = "") -> Quantity:
    """Return a number without an error."""
    return Quantity(value, None, unit, _proper_minus(f"{value:.{digits}f}"))


def count(value: int, of: int) -> Quantity:
    """Return a count out of a total."""
    return Quantity(value, None, f"of {of}", f"{value} of {of}")


def absent(why: str, unit: str = "") -> Quantity:
    """Return a quantity that was not computed."""
    return Quantity(math.nan, None, unit, why)


def _proper_minus(text: str) -> str:
    """Return text with a proper minus sign, and none before a number that rounds to 0."""
    text = re.sub(r"^-(?=[0.]+( |$))", "", text)
    return text.replace("-", "\N{MINUS SIGN}")
