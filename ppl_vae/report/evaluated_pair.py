"""A pair with its numbers, and what its figures are drawn from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ppl_vae.evaluation.bounds import ELBOTerms
from ppl_vae.evaluation.calibration_result import Calibration
from ppl_vae.evaluation.classification import Reliability
from ppl_vae.evaluation.decomposition import KLDecomposition
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.factor_scores import Disentanglement
from ppl_vae.evaluation.latent_dimensions import LatentUnits
from ppl_vae.evaluation.predictive import PredictiveChecks
from ppl_vae.report.comparability import DataSpace
from ppl_vae.report.latents import Latents
from ppl_vae.report.pair_data import PairData
from ppl_vae.report.quantities import Quantity


@contextmanager
def recorded_warnings(messages: list[str]) -> Iterator[None]:
    """Add the messages of UserWarnings to a list; other warnings are issued."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for w in caught:
        if issubclass(w.category, UserWarning):
            messages.append(str(w.message))
        else:
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)


@dataclass(eq=False)
class EvaluatedPair:
    """A pair with everything known about it.

    Args:
        quantities: label in the table -> quantity.
        missing: what could not be computed -> why.
        units: latent site -> active units and KL.
        bounds: label -> NELBO, IWAE and IS in nats, without IWAE-1 if it is the NELBO.
        decomposition: of the KL, if there is one latent.
        reliability: of q(y | x), if there are labels.
        responsibilities: of a mixture's components for each datum.
        calibration: of q(z | x), if it was asked for, as are the following.
        predictive: checks of the data against replicated ones.
        disentanglement: latent site -> scores for the factors of the data.
        verdicts: what the sections that were asked for say, in words.
        details: what they found, as JSON.
    """

    latents: Latents
    quantities: dict[str, Quantity] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    units: dict[str, LatentUnits] = field(default_factory=dict)
    bounds: dict[str, Estimate] = field(default_factory=dict)
    data_space: DataSpace | None = None
    terms: ELBOTerms | None = None
    decomposition: KLDecomposition | None = None
    reliability: Reliability | None = None
    responsibilities: Tensor | None = None
    calibration: Calibration | None = None
    predictive: PredictiveChecks | None = None
    disentanglement: dict[str, Disentanglement] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> PairData:
        """The pair and its data."""
        return self.latents.inputs

    @property
    def name(self) -> str:
        """Name of the pair."""
        return self.inputs.name

    @contextmanager
    def attempt(self, what: str, *also: type[Exception]) -> Iterator[None]:
        """Record why something does not apply, as NotImplementedError, or one of ``also``, says."""
        expected: tuple[type[Exception], ...] = (NotImplementedError, *also)
        try:
            yield
        except expected as error:
            self.missing[what] = str(error)

    def recorded_warnings(self) -> AbstractContextManager[None]:
        """Record UserWarnings; others are issued."""
        return recorded_warnings(self.warnings)

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
            "verdicts": self.verdicts,
            "sections": self.details,
            "warnings": self.warnings,
            "missing": self.missing,
        }
