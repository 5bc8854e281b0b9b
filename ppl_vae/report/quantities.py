"""Numbers with what they are: what the page shows and the JSON holds."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ppl_vae.evaluation.estimate import Estimate


@dataclass(frozen=True)
class Quantity:
    """One number of one pair.

    Args:
        value: the number, unrounded; NaN where it was not computed, and ``text`` says why.
        standard_error: None where it has none.
        unit: such as ``"nats"``; empty for counts.
        text: as people read it.
    """

    value: int | float
    standard_error: float | None
    unit: str
    text: str

    def as_json(self) -> dict[str, object]:
        """Return it as JSON holds it, null for what is no finite number."""
        return {
            "value": finite(self.value),
            "standard_error": finite(self.standard_error),
            "unit": self.unit,
            "text": self.text,
        }


def nats(estimate: Estimate) -> Quantity:
    """Return a quantity in nats per datum."""
    return Quantity(estimate.mean, estimate.standard_error, "nats", _signed(str(estimate)))


def bits(estimate: Estimate) -> Quantity:
    """Return a quantity in bits per dimension, with a digit more."""
    text = f"{estimate.mean:.4f} ± {estimate.standard_error:.4f}"
    return Quantity(estimate.mean, estimate.standard_error, "bits per dimension", _signed(text))


def share(estimate: Estimate, interval: tuple[float, float] | None = None) -> Quantity:
    """Return a share in percent, with a 95 % interval where it is given."""
    text = f"{100 * estimate.mean:.1f} ± {100 * estimate.standard_error:.1f} %"
    if interval is not None:
        text = f"{100 * estimate.mean:.1f} % ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    return Quantity(estimate.mean, estimate.standard_error, "share", text)


def plain(value: float, digits: int, unit: str = "") -> Quantity:
    """Return a number without an error."""
    return Quantity(value, None, unit, _signed(f"{value:.{digits}f}"))


def count(value: int, of: int) -> Quantity:
    """Return a count out of some number."""
    return Quantity(value, None, f"of {of}", f"{value} of {of}")


def absent(why: str, unit: str = "") -> Quantity:
    """Return what was not computed, with the reason in the place of the number."""
    return Quantity(math.nan, None, unit, why)


def finite(value: int | float | None) -> int | float | None:
    """Return None for what JSON has no number for."""
    return value if value is not None and math.isfinite(value) else None


def _signed(text: str) -> str:
    """Write a minus as such, and none before what is 0 to the digits shown."""
    text = re.sub(r"^-(?=[0.]+( |$))", "", text)
    return text.replace("-", "\N{MINUS SIGN}")
