"""What has been measured of a pair."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from ppl_vae.evaluation.bounds import ELBOTerms
from ppl_vae.evaluation.classification import Calibration
from ppl_vae.evaluation.decomposition import KLDecomposition
from ppl_vae.evaluation.latent_dimensions import LatentUnits
from ppl_vae.report.quantities import Quantity
from ppl_vae.report.target import Target

T = TypeVar("T")


@dataclass(eq=False)
class Measured:
    """The numbers of one pair, and what the pictures need of them.

    Args:
        quantities: by the label that the table gives them.
        missing: what could not be had, and why.
        warnings: in words.
        units: by latent site.
        target: what p(x) is of.
        terms: of the ELBO.
        decomposition: of the KL, where there is one latent.
        calibration: of a classifier.
        shares: of a mixture's components in each datum.
    """

    quantities: dict[str, Quantity] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    units: dict[str, LatentUnits] = field(default_factory=dict)
    target: Target | None = None
    terms: ELBOTerms | None = None
    decomposition: KLDecomposition | None = None
    calibration: Calibration | None = None
    shares: Tensor | None = None

    def attempt(self, what: str, fn: Callable[[], T], *reasons: type[Exception]) -> T | None:
        """Return what ``fn`` returns, or write down why it does not apply.

        Args:
            what: for the page.
            fn: to be called.
            reasons: exceptions that its documentation has for what does not apply, besides
                NotImplementedError; any other is an error of the data or of the code.
        """
        try:
            return fn()
        except Exception as error:
            if not isinstance(error, (NotImplementedError, *reasons)):
                raise
            self.missing[what] = str(error)
            return None

    def listen(self, fn: Callable[[], T]) -> T:
        """Return what ``fn`` returns, and keep its warnings for the page."""
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
