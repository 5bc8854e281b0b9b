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
from ppl_vae.estimators.traces import log_density, sample_sites


class BatchPlate:
    """The plate over the data, along which terms are kept per datum; looked up in ``traces``."""

    def __init__(self, name: str, traces: Iterable[Trace], particle_dim: int) -> None:
        frames = {
            frame.name: frame
            for trace in traces
            for site in sample_sites(trace)
            for frame in site["cond_indep_stack"]
            if frame.vectorized
        }
        if name not in frames:
            raise ValueError(
                f"no site is in a vectorised plate named {name!r}; the plates are "
                f"{sorted(frames.keys() - {PARTICLES})}: name the batch plate with plate=..."
            )
        frame = frames[name]
        self.name = name
        self.particle_dim = particle_dim
        self.dim: int = frame.dim
        self.size: int = frame.size
        self.scale: float = _scale(frame)
        """N/B, 1 without subsampling."""
        self.subsampled: list[tuple[str, str]] = []
        """Sites in a subsampled inner plate, with the plate's name."""
        self._frame = frame

    def log_prob(self, site: dict) -> Tensor:
        """Return the site's log-density, shape ``(*enumerated, particles, *plates)``.

        It is -∞ where the value is outside the support, whatever the scale.
        """
        return self.reduce(log_density(site), site, site["infer"].get("_outside"))

    def drawn_log_prob(self, site: dict) -> Tensor:
        """Return the log-density that the site's value was drawn from, without scales and masks."""
        return self.reduce(log_density(site), {**site, "scale": self.scale, "mask": None})

    def reduce(self, term: Tensor, site: dict, impossible: Tensor | None = None) -> Tensor:
        """Scale and mask a term of the site's batch shape and sum over its inner plates.

        It is -∞ where ``impossible``. Raises ValueError if the site lies outside the batch plate.
        """
        if site["mask"] is False:
            return torch.zeros(())
        self._check_plate(site)
        term = scale_and_mask(term, site["scale"] / self.scale, site["mask"])
        if impossible is not None:
            term = term.masked_fill(impossible, -math.inf)
        for frame in self.inner_plates(site):
            if _scale(frame) != 1:
                self.subsampled.append((site["name"], frame.name))
            if frame.vectorized and term.dim() >= -frame.dim:
                term = term.sum(frame.dim, keepdim=True)
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
                raise NotImplementedError(
                    f"site {site['name']!r} is enumerated inside the inner plate {frame.name!r}, "
                    f"which would need all joint values of the plate; use TraceEnum_ELBO"
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
        sizes[0], sizes[self.dim] = num_particles, self.size
        term = term.expand(torch.broadcast_shapes(term.shape, tuple(sizes)))
        return term.reshape(num_particles, self.size)

    def _check_plate(self, site: dict) -> None:
        for frame in site["cond_indep_stack"]:
            if frame.name != self.name or not frame.vectorized:
                continue
            if (frame.dim, frame.size, _scale(frame)) == (self.dim, self.size, self.scale):
                return
            raise ValueError(
                f"site {site['name']!r} is in a batch plate {self.name!r} of {_extent(frame)}, and "
                f"other sites in one of {_extent(self._frame)}; model and guide need the same plate"
            )
        raise ValueError(
            f"site {site['name']!r} is outside the batch plate {self.name!r}, so it has no "
            f"per-datum weight; move it into the plate, or use Trace_ELBO"
        )


def _scale(frame: Any) -> float:
    return (frame.full_size or frame.size) / frame.size


def _extent(frame: Any) -> str:
    return f"{frame.size} data out of {frame.full_size or frame.size} in dimension {frame.dim}"
