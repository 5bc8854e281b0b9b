"""What simulation-based calibration finds: ranks, bands, and what is wrong in words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_vae.evaluation.classification import Reliability
from ppl_vae.evaluation.rank_fit import RankFit
from ppl_vae.evaluation.results import Result

Kind = Literal["latent", "discrete latent", "label", "log density", "distance", "statistic"]
"""What is ranked: an entry of a latent, log q of a label, log p, TARP's distance, or f(z, x)."""

EXPECTED_COVERAGE = "TARP"
"""The name of the distance of latents to random points."""
LOG_DENSITY = "log p(x, z)"
"""The name of the model's log-density."""

_EVIDENCE = 3.0
"""Standard errors from which a shift or a width is named."""
_NAMED = 3
"""Quantities that a row names."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with the draws of a quantity.

    Args:
        what: ``"too narrow"``, ``"too wide"``, ``"shifted up"``, ``"shifted down"``, or others.
        size: the draws' width divided by the width needed, or the shift in standard deviations of
            the draws; None if it has no size.
        error: standard error of ``size``.
    """

    what: str
    size: float | None = None
    error: float | None = None

    @property
    def unit(self) -> str:
        """The unit of ``size``, in words."""
        return "standard deviations of q" if "shifted" in self.what else "times the width needed"

    def __str__(self) -> str:
        return self.what if self.size is None else f"{self.what}: {self.measure} {self.unit}"

    @property
    def distance(self) -> float:
        """How far the size is from that of exact draws; 0 without a size."""
        if self.size is None:
            return 0.0
        return self.size if "shifted" in self.what else abs(math.log(self.size))

    @property
    def measure(self) -> str:
        """The size with its standard error."""
        if self.size is None:
            return ""
        known = self.error is not None and self.error < self.size
        return f"{self.size:.2f} ± {self.error:.2f}" if known else f"about {self.size:.2g}"


@dataclass(frozen=True, eq=False)
class RankedQuantity:
    """The ranks of one quantity of simulated latents among draws of the guide.

    Args:
        name: such as ``"z_1"``, the first entry of z.
        kind: what it is.
        ranks: numbers of draws below, ties at random, shape ``(simulations,)``.
        inside: whether its ECDF is within the band everywhere.
        p_value: the chance of ranks as uneven in this quantity alone, if all draws are exact.
        fit: shift and width that would give such ranks; None if ``inside``.
    """

    name: str
    kind: Kind
    ranks: Int[Tensor, " simulations"]
    inside: bool
    p_value: float
    fit: RankFit | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong, nothing if ``inside``."""
        fit = self.fit
        if fit is None:
            return ()
        # The truth, in units of the draws: they are shifted the other way.
        up, narrow = (_side(score) for score in (-fit.shift_score, fit.width_score))
        found: list[Finding] = []
        if self.kind == "log density":
            found += [Finding("draws too probable: q too narrow")] * (up > 0)
            found += [Finding("draws too improbable: q too wide, or off the posterior")] * (up < 0)
        elif self.kind == "label":
            found += [Finding("overconfident")] * (up > 0) + [Finding("underconfident")] * (up < 0)
        elif self.kind == "discrete latent":
            found += _named(up, "too large", "too small")
            found += _named(narrow, "overconfident", "underconfident")
        elif self.kind == "distance":
            found += _named(narrow, "too narrow", "too wide")
            found += _named(up, "draws too far from random points", "draws too near random points")
        else:
            ratio = math.exp(-fit.log_width)
            sizes = (ratio, ratio * fit.log_width_error), (abs(fit.shift), fit.shift_error)
            found += _named(narrow, "too narrow", "too wide", *sizes[0])
            found += _named(up, "shifted up", "shifted down", *sizes[1])
        return tuple(found) or (Finding("of another shape"),)

    @property
    def words(self) -> str:
        """What is wrong in words, with sizes; empty if ``inside``."""
        return "; ".join(map(str, self.findings))


def _side(score: float) -> int:
    """Return the sign of a score that is evidence, else 0."""
    return (score > _EVIDENCE) - (score < -_EVIDENCE)


def _named(
    sign: int, above: str, below: str, size: float | None = None, error: float | None = None
) -> list[Finding]:
    return [Finding(above if sign > 0 else below, size, error)] if sign else []


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Result):
    """Simulation-based calibration of a guide on data of its own model.

    Args:
        quantities: the ranked quantities, latents first.
        num_draws: L, draws of the guide per simulation; ranks are from 0 to L.
        level: chance that a guide of exact draws has all quantities inside, at least.
        lower: the band of the ECDF of each quantity at :attr:`points`, shape ``(L,)``.
        upper: likewise.
        reliability: site -> confidence and accuracy of q(y | x), for labels that the guide infers.
    """

    quantities: tuple[RankedQuantity, ...]
    num_draws: int
    level: float
    lower: Float[Tensor, " points"]
    upper: Float[Tensor, " points"]
    reliability: dict[str, Reliability] = field(default_factory=dict)

    def __getitem__(self, name: str) -> RankedQuantity:
        for quantity in self.quantities:
            if quantity.name == name:
                return quantity
        raise KeyError(f"{name!r} is none of {', '.join(q.name for q in self.quantities)}")

    @property
    def calibrated(self) -> bool:
        """Whether every quantity is within its band."""
        return not self.wrong

    @property
    def wrong(self) -> tuple[RankedQuantity, ...]:
        """The quantities that leave their bands."""
        return tuple(q for q in self.quantities if not q.inside)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the quantities."""
        return tuple(q.name for q in self.quantities)

    @property
    def num_simulations(self) -> int:
        """N, the number of simulated data."""
        return len(self.quantities[0].ranks)

    @property
    def p_value(self) -> float:
        """The family-wise p-value: the least of the M quantities' times M (Bonferroni)."""
        return min(1.0, len(self.quantities) * min(q.p_value for q in self.quantities))

    @property
    def points(self) -> Float[Tensor, " points"]:
        """j / (L + 1), j = 1, ..., L: where ECDFs are compared."""
        return torch.arange(1, self.num_draws + 1, dtype=torch.float64) / (self.num_draws + 1)

    @property
    def ecdf(self) -> Float[Tensor, "quantities points"]:
        """The share of ranks below j; :attr:`points` in expectation if draws are exact."""
        ranks = torch.stack([q.ranks for q in self.quantities])
        below = counts_below(ranks, self.num_draws)
        return below.double() / self.num_simulations

    @property
    def expected_coverage(self) -> Float[Tensor, " points"] | Any:
        """Share of latents in regions of the guide of credibility :attr:`points` (TARP).

        None where no latent is continuous.
        """
        if EXPECTED_COVERAGE not in self.names:
            return None
        return self.ecdf[self.names.index(EXPECTED_COVERAGE)]

    @property
    def verdict(self) -> str:
        """Whether the guide is calibrated, in words."""
        number = len(self.quantities)
        if self.calibrated:
            shown = "1 simulation shows"
            if self.num_simulations > 1:
                shown = f"{self.num_simulations} simulations show"
            return f"calibrated, as far as {shown}"
        return f"not calibrated: {len(self.wrong)} of {number} quantities leave their bands"

    @property
    def words(self) -> str:
        """What is wrong in one sentence, for a title or a report; empty if calibrated."""
        found = []
        for what, some in self._by_finding().items():
            worst = max((f for _, f in some), key=lambda f: f.distance)
            size = "" if worst.size is None else f" (worst: {worst.size:.2f} {worst.unit})"
            found.append(f"{len(some)} of {len(self._latents)} entries {what}{size}")
        return "; ".join([*found, *(f"{q.name}: {q.words}" for q in self._others)])

    @property
    def _latents(self) -> list[RankedQuantity]:
        return [q for q in self.quantities if q.kind in ("latent", "discrete latent")]

    @property
    def _others(self) -> list[RankedQuantity]:
        return [q for q in self.wrong if q.kind not in ("latent", "discrete latent")]

    def _by_finding(self) -> dict[str, list[tuple[RankedQuantity, Finding]]]:
        """Return the entries of latents by what is wrong with them, the worst first."""
        found: dict[str, list[tuple[RankedQuantity, Finding]]] = {}
        for q in self._latents:
            for finding in q.findings:
                found.setdefault(finding.what, []).append((q, finding))
        return {
            what: sorted(some, key=lambda pair: -pair[1].distance) for what, some in found.items()
        }

    def _rows(self) -> dict[str, object]:
        rows: dict[str, object] = {
            "verdict": self.verdict,
            "simulations": f"{self.num_simulations}, with {self.num_draws} draws of q each",
        }
        if self.calibrated:
            rows["false alarms"] = (
                f"at most {100 * (1 - self.level):g} % over all {len(self.quantities)} quantities"
            )
        for what, some in self._by_finding().items():
            named = ", ".join(f"{q.name} {f.measure}".rstrip() for q, f in some[:_NAMED])
            unit = "" if some[0][1].size is None else f" {some[0][1].unit}"
            more = f", and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
            rows[what] = f"{len(some)} of {len(self._latents)} entries: {named}{unit}{more}"
        rows |= {q.name: q.words for q in self._others}
        for site, found in self.reliability.items():
            rows[f"q({site}|x)"] = str(found)
        return rows


def counts_below(
    ranks: Int[Tensor, "quantities simulations"], num_draws: int
) -> Int[Tensor, "quantities points"]:
    """Return the number of ranks below j = 1, ..., L."""
    counts = [row.bincount(minlength=num_draws + 1)[:-1].cumsum(0) for row in ranks]
    return torch.stack(counts)
