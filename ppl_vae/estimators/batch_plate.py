"""Log-densities per datum: N/B factored out, β and masks applied, inner plates summed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor

from ppl_vae.estimators.handlers import PARTICLES
from ppl_vae.estimators.masks import elementwise, is_masked
from ppl_vae.estimators.traces import ELBO_INSTEAD, EnumeratedInsideError, log_density, sample_sites


class OutsidePlateError(ValueError):
    """A site outside the batch plate has no weight per datum; perhaps all sites."""


class SubsampledInsideError(NotImplementedError):
    """A site is summed out over a subsampled plate, whose scale would be inside the logarithm."""


class BatchPlate:
    """The plate over the data, along which terms are kept per datum; looked up in ``traces``.

    Without a name all of the program is one datum, and every plate an inner one.
    """

    def __init__(self, name: str | None, traces: Iterable[Trace], particle_dim: int) -> None:
        self.name = name
        self.particle_dim = particle_dim
        self.subsampled: list[tuple[str, str]] = []
        """Sites in a subsampled inner plate, with the plate's name."""
        self.dim: int = particle_dim
        self.size: int = 1
        self.scale: float = 1.0
        """N/B, 1 without subsampling."""
        if name is None:
            return
        frames = {
            frame.name: frame
            for trace in traces
            for site in sample_sites(trace)
            for frame in site["cond_indep_stack"]
            if frame.vectorized
        }
        if name not in frames:
            raise OutsidePlateError(
                f"no site is in a vectorised plate named {name!r}; the plates are "
                f"{sorted(frames.keys() - {PARTICLES})}: name the batch plate with plate=..., or "
                f"take ImportanceWeightedELBO(plate=None), one weight for the whole program"
            )
        frame = frames[name]
        self.dim, self.size, self.scale = frame.dim, frame.size, _scale(frame)
        self._frame = frame

    def log_prob(self, site: dict) -> Tensor:
        """Return the site's log-density, shape ``(*enumerated, particles, *plates)``.

        It is -∞ where the value is outside the support, whatever the scale.
        """
        if site["mask"] is False:
            return torch.zeros(())
        return self.summed_inside(self.weighted_log_prob(site), site)

    def weighted_log_prob(self, site: dict) -> Tensor:
        """Return the same in each slice of the inner plates."""
        return self.weighted(log_density(site), site, site["infer"].get("_outside"))

    def drawn_log_prob(self, site: dict) -> Tensor:
        """Return the log-density that the site's value was drawn from, without scales and masks.

        Raises NotImplementedError if a mask hides it.
        """
        fn, _, _ = elementwise(site["fn"])
        if is_masked(fn):
            raise NotImplementedError(
                f"site {site['name']!r} of the guide has a mask on a part of its distribution, "
                f"which hides the density that it is drawn from; mask the site by poutine.mask"
            )
        drawn = {**site, "scale": self.scale, "mask": None}
        if fn is not site["fn"]:
            drawn["fn"] = fn
            drawn.pop("unscaled_log_prob", None)  # that under masks within events
        return self.reduce(log_density(drawn), drawn)

    def reduce(self, term: Tensor, site: dict, impossible: Tensor | None = None) -> Tensor:
        """Scale and mask a term of the site's batch shape and sum over its inner plates.

        It is -∞ where ``impossible``. Raises ValueError if the site lies outside the batch plate.
        """
        if site["mask"] is False:
            return torch.zeros(())
        return self.summed_inside(self.weighted(term, site, impossible), site)

    def summed_inside(self, term: Tensor, site: dict) -> Tensor:
        """Sum a term of the site's batch shape over its inner plates."""
        for frame in self.inner_plates(site):
            if frame.vectorized and term.dim() >= -frame.dim:
                term = term.sum(frame.dim, keepdim=True)
        return term

    def weighted(self, term: Tensor, site: dict, impossible: Tensor | None = None) -> Tensor:
        """Scale and mask a term of the site's batch shape; -∞ where ``impossible``."""
        self._check_plate(site)
        term = scale_and_mask(term, site["scale"] / self.scale, site["mask"])
        if impossible is not None:
            term = term.masked_fill(impossible, -math.inf)
        for frame in self.inner_plates(site):
            if _scale(frame) != 1:
                self.subsampled.append((site["name"], frame.name))
        return term

    def inner_plates(self, site: dict) -> list:
        """Return the site's plates other than the batch and the particles."""
        return [
            frame for frame in site["cond_indep_stack"] if frame.name not in (self.name, PARTICLES)
        ]

    def enumeration_dim(self, site: dict) -> int:
        """Return the dimension of the site's enumerated values; raise in an inner plate."""
        for frame in self.inner_plates(site):
            if frame.vectorized:
                raise EnumeratedInsideError(
                    f"site {site['name']!r} of the guide is enumerated inside the inner plate "
                    f"{frame.name!r}, which would need all joint values of the plate; enumerate it "
                    f"in the model alone, sample it, or {ELBO_INSTEAD}"
                )
        return site["infer"]["_enumerate_dim"]

    def per_datum(self, term: Tensor) -> Tensor:
        """Reshape a term that varies along the batch only to ``(batch,)``."""
        if term.numel() != self.size:
            shape = [1] * -self.dim
            shape[0] = self.size
            term = term.expand(torch.broadcast_shapes(term.shape, tuple(shape)))
        return term.reshape(-1)

    def per_particle(self, term: Tensor, num_particles: int) -> Tensor:
        """Reshape a term that varies along particles and batch only to ``(particles, batch)``."""
        sizes = [1] * -self.particle_dim
        sizes[self.dim], sizes[0] = self.size, num_particles
        term = term.expand(torch.broadcast_shapes(term.shape, tuple(sizes)))
        return term.reshape(num_particles, self.size)

    def _check_plate(self, site: dict) -> None:
        if self.name is None:
            return
        for frame in site["cond_indep_stack"]:
            if frame.name != self.name or not frame.vectorized:
                continue
            if (frame.dim, frame.size, _scale(frame)) == (self.dim, self.size, self.scale):
                return
            raise ValueError(
                f"site {site['name']!r} is in a batch plate {self.name!r} of {_extent(frame)}, and "
                f"other sites in one of {_extent(self._frame)}; model and guide need the same plate"
            )
        raise OutsidePlateError(
            f"site {site['name']!r} is outside the batch plate {self.name!r}, so it has no "
            f"per-datum weight; move it into the plate, or {ELBO_INSTEAD}, or with plate=None, one "
            f"weight for the whole program"
        )


def _scale(frame: Any) -> float:
    return (frame.full_size or frame.size) / frame.size


def _extent(frame: Any) -> str:
    return f"{frame.size} data out of {frame.full_size or frame.size} in dimension {frame.dim}"
