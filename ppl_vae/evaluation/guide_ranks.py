"""Ranks of simulated latents, and of functions of them, among draws of the guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from pyro.poutine import Trace
from torch import Tensor

from ppl_vae.errors import describe
from ppl_vae.estimators.densities import model_terms
from ppl_vae.estimators.handlers import EnumerationMark
from ppl_vae.estimators.traces import log_density, sample_sites
from ppl_vae.evaluation.calibration_result import EXPECTED_COVERAGE, LOG_DENSITY, Kind
from ppl_vae.evaluation.latents import mode_of
from ppl_vae.evaluation.traced_batch import TracedBatch

Statistic = Callable[[Any, Tensor], Tensor]
"""f(z, x) -> (batch,)."""


class GuideRanks:
    """The quantities of some simulated data: values of the truth and of L draws of the guide.

    A label, a discrete site of one value per datum, is drawn by the guide even where it enumerates;
    one that the model alone enumerates is summed out of its density.

    Args:
        batch: model and guide on the simulated x.
        truth: the simulated latents by site.
        num_draws: L.

    Raises NotImplementedError if model and guide have different latents.
    """

    def __init__(
        self, owner: str, batch: TracedBatch, truth: Mapping[str, dict], num_draws: int
    ) -> None:
        self.owner = owner
        self.batch = batch
        self.num_draws = num_draws
        drawn = [s for s in sample_sites(batch.guide_trace) if not s["is_observed"]]
        self.sites = {site["name"]: site for site in drawn}
        for name, site in truth.items():
            left_out = not (name in self.sites or name in batch.enumerated or site["is_observed"])
            if left_out and name != "x":
                _refuse_site(owner, name, batch)
        if not self.sites:
            raise NotImplementedError(f"{owner}: the guide has no latents to be calibrated")
        of_guide = batch.enumerated & self.sites.keys()
        self._model = EnumerationMark(None, of_guide)(batch.model)
        self._guide = EnumerationMark(None, of_guide)(batch.guide)
        trace = batch.run(self._guide, num_draws)
        self.values = {}
        for name in self.sites:
            draws, true = trace.nodes[name]["value"], truth[name]["value"]
            while true.dim() < draws.dim():
                true = true[None]
            self.values[name] = torch.cat([true.to(draws.dtype), draws])

    def kind(self, name: str) -> Kind:
        """Return what the site's values are."""
        fn = self.sites[name]["fn"]
        if not fn.event_shape and fn.has_enumerate_support:
            return "label"
        return "discrete latent" if fn.support.is_discrete else "latent"

    @property
    def labels(self) -> list[str]:
        """The sites of labels."""
        return [name for name in self.sites if self.kind(name) == "label"]

    def entries(self, name: str) -> Float[Tensor, "draws batch entries"]:
        """Return a site's values, truth first, with one dimension for all that a datum has."""
        value = self.values[name]
        dim = self.batch.plate.dim - self.sites[name]["fn"].event_dim
        return value.movedim(dim, 1).flatten(2) if value.dim() > 2 else value[..., None]

    def vectors(self) -> Float[Tensor, "draws batch entries"] | None:
        """Return all latents but labels as one vector, truth first; None if all are labels."""
        parts = [self.entries(name) for name in self.sites if self.kind(name) != "label"]
        return torch.cat(parts, -1) if parts else None

    def quantities(
        self,
        statistics: Mapping[str, Statistic],
        x: Tensor,
        reference: tuple[Tensor, Tensor] | None,
    ) -> dict[str, tuple[Kind, Float[Tensor, "draws batch"]]]:
        """Return the kind and the values, truth first, of each quantity by name.

        Args:
            statistics: name -> f(z, x).
            x: what the guide sees.
            reference: random points, ``(batch, entries)``, and the unit of each entry.
        """
        found: dict[str, tuple[Kind, Tensor]] = {}
        for name in self.sites:
            if self.kind(name) == "label":
                continue
            entries = self.entries(name)
            for index in range(entries.shape[-1]):
                entry = f"{name}_{index + 1}" if entries.shape[-1] > 1 else name
                found[entry] = self.kind(name), entries[..., index]
        found |= {name: ("label", value) for name, value in self._log_q().items()}
        found[LOG_DENSITY] = "log density", self._log_p()
        vectors = self.vectors()
        if vectors is not None and reference is not None:
            points, unit = reference
            distance = ((vectors - points) / unit).norm(dim=-1)
            found[EXPECTED_COVERAGE] = "distance", distance
        for name, statistic in statistics.items():
            if name in found:
                raise ValueError(
                    f"{self.owner}: statistics must have names other than {', '.join(found)}, got "
                    f"{name!r}"
                )
            found[name] = "statistic", self._statistic(name, statistic, x)
        return found

    def ranks(self, name: str, values: Float[Tensor, "draws batch"]) -> Int[Tensor, " batch"]:
        """Return how many draws are below the truth, at random among ties."""
        if values.isnan().any():
            raise ValueError(
                f"{self.owner}: {name} is NaN at {int(values.isnan().sum())} of {values.numel()} "
                f"values; look at the networks' outputs, and at the support of the prior"
            )
        below, ties = ((compare(values[1:], values[0])).sum(0) for compare in (torch.lt, torch.eq))
        return below + (torch.rand(ties.shape, device=ties.device) * (ties + 1)).long()

    def reliable(self) -> dict[str, tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]]:
        """Return q of the likeliest label, and whether it is the true one, by site.

        Of the label that depends on x alone, if the guide draws one first.
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, site in self.sites.items():
            if self.kind(name) != "label" or found:
                break
            mode = mode_of(site["fn"])
            right = (mode == self.values[name][0]).double()
            found[name] = site["fn"].log_prob(mode).exp().double().cpu(), right.cpu()
        return found

    def _replayed(self, program: Callable) -> Trace:
        """Run a program at all values."""
        values = Trace()
        for name, value in self.values.items():
            values.add_node(
                name, name=name, type="sample", value=value, is_observed=False, infer={}
            )
        return self.batch.run(program, self.num_draws + 1, values)

    def _log_p(self) -> Float[Tensor, "draws batch"]:
        trace = self._replayed(self._model)
        log_p, _ = model_terms(trace, self.batch.plate, self.sites)
        return self.batch.plate.per_particle(log_p, self.num_draws + 1)

    def _log_q(self) -> dict[str, Float[Tensor, "draws batch"]]:
        if not self.labels:
            return {}
        trace, plate = self._replayed(self._guide), self.batch.plate
        return {
            name: plate.per_particle(log_density(trace.nodes[name]), self.num_draws + 1)
            for name in self.labels
        }

    def _statistic(
        self, name: str, statistic: Statistic, x: Tensor
    ) -> Float[Tensor, "draws batch"]:
        number = self.num_draws + 1, len(self.batch)
        flat = {}
        for site, value in self.values.items():
            dim = self.batch.plate.dim - self.sites[site]["fn"].event_dim
            flat[site] = value.movedim(dim, 1).flatten(0, 1)
        rows = x.expand(number[0], *x.shape).flatten(0, 1)
        found = statistic(next(iter(flat.values())) if len(flat) == 1 else flat, rows)
        expected = f"{self.owner}: statistic {name!r} must return a tensor ({len(rows)},)"
        if not isinstance(found, Tensor):
            raise TypeError(f"{expected}, a number for each datum, got {describe(found)}")
        if found.shape != (len(rows),):
            raise ValueError(f"{expected}, a number for each datum, got {describe(found)}")
        return found.reshape(number)


def _refuse_site(owner: str, name: str, batch: TracedBatch) -> None:
    fix = "sample it in the guide, or mark it infer={'enumerate': 'parallel'}"
    if name == "mask":
        fix = "a pair with missingness= has no data without a mask; leave the part out"
    raise NotImplementedError(
        f"{owner}: the model draws {name!r}, which is neither the data nor in the guide; {fix}"
    )
