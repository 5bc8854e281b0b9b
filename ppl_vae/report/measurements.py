"""Numbers with their errors and units, and all those of a pair."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from ppl_vae.evaluation.bounds import ELBOTerms
from ppl_vae.evaluation.classification import Calibration
from ppl_vae.evaluation.decomposition import KLDecomposition
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.latent_dimensions import LatentUnits
from ppl_vae.report.comparability import DataSpace

T = TypeVar("T")


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


@dataclass(eq=False)
class Measurements:
    """The numbers of one pair, and what its figures need.

    Args:
        quantities: label in the table -> quantity.
        missing: what could not be computed -> why.
        warnings: in words.
        units: latent site -> active units and KL.
        bounds: label -> NELBO, IWAE and IS in nats, without IWAE-1 if it is the NELBO.
        data_space: of p(x); None until it is known.
        terms: of the ELBO.
        decomposition: of the KL, if there is one latent.
        calibration: of a classifier.
        responsibilities: of a mixture's components for each datum.
    """

    quantities: dict[str, Quantity] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    units: dict[str, LatentUnits] = field(default_factory=dict)
    bounds: dict[str, Estimate] = field(default_factory=dict)
    data_space: DataSpace | None = None
    terms: ELBOTerms | None = None
    decomposition: KLDecomposition | None = None
    calibration: Calibration | None = None
    responsibilities: Tensor | None = None

    def attempt(self, what: str, fn: Callable[[], T], *expected: type[Exception]) -> T | None:
        """Return the result of ``fn``, or None, with the reason recorded, if it does not apply.

        Args:
            what: name of the result.
            fn: to be called.
            expected: exceptions besides NotImplementedError by which ``fn`` says that it does not
                apply; others are raised.
        """
        try:
            return fn()
        except Exception as error:
            if not isinstance(error, (NotImplementedError, *expected)):
                raise
            self.missing[what] = str(error)
            return None

    def record_warnings(self, fn: Callable[[], T]) -> T:
        """Return the result of ``fn``, with its UserWarnings recorded."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            result = fn()
        for warning in caught:
            if issubclass(warning.category, UserWarning):
                self.warnings.append(str(warning.message))
            else:
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )
        return result

    def as_json(self) -> dict[str, Any]:
        """Return the numbers as JSON."""
        return {
            "quantities": {label: q.as_json() for label, q in self.quantities.items()},
            "latents": {
                site: {
                    "active": units.active.tolist(),
                    "activity": units.activity.tolist(),
                    "kl": None if units.kl_missing else units.kl.tolist(),
                }
                for site, units in self.units.items()
            },
            "warnings": self.warnings,
            "missing": self.missing,
        }
