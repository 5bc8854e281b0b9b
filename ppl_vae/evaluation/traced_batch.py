"""A pair on some of the data: its sites, found by running each program once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from ppl_vae.estimators.batch_plate import BatchPlate
from ppl_vae.estimators.handlers import Unmasking, check_enumeration
from ppl_vae.estimators.log_weights import log_weights
from ppl_vae.estimators.particle_check import check_particles
from ppl_vae.estimators.traces import Runner, plate_nesting, point_masses, sample_sites
from ppl_vae.estimators.training_terms import without_training_terms
from ppl_vae.evaluation.bits import Kind
from ppl_vae.evaluation.inputs import ProgramInputs, check_all_data
from ppl_vae.evaluation.signature import Signature
from ppl_vae.evaluation.unscaled import PLATE, check_unscaled
from ppl_vae.models.imputation import MAX_ROWS
from ppl_vae.protocols import ModelAndGuide

_CPU_FRACTION = 20


def row_limit(data: Tensor | ProgramInputs) -> int:
    """Return how many rows go through the networks at once on the device of the data.

    ``MAX_ROWS`` on an accelerator, and a twentieth on a CPU: this is faster, since it fits the
    cache, and keeps a prior of 500 components to a few hundred MiB.
    """
    return MAX_ROWS if data.device.type != "cpu" else MAX_ROWS // _CPU_FRACTION


@dataclass(frozen=True)
class TracedBatch:
    """A pair with the arguments of some of the data, and a trace of each program.

    Args:
        start: index of the first datum.
        model_trace: a run of the model, its latents drawn from the prior.
        particle_dim: the first dimension left of all plates.
        latents: the model's latent sites that are not enumerated.
        enumerated: the sites that model or guide enumerates.
        combinations: the number of joint values of the enumerated sites.
    """

    model: Callable
    guide: Callable
    args: tuple
    kwargs: dict[str, Any]
    start: int
    model_trace: Trace
    guide_trace: Trace
    particle_dim: int
    plate: BatchPlate
    latents: tuple[str, ...]
    enumerated: frozenset[str]
    combinations: int

    def __len__(self) -> int:
        return self.plate.size

    @property
    def kind(self) -> Kind | None:
        """What p(x) is; None if unknown. Given labels and ``pyro.factor`` do not count as x."""
        discrete = {
            _is_discrete(site["fn"])
            for site in sample_sites(self.model_trace)
            if site["is_observed"]
            and site["infer"].get("enumerate") != "parallel"
            and 0 not in site["fn"].event_shape
        }
        if None in discrete or not discrete:
            return None
        return "both" if len(discrete) > 1 else "mass" if discrete.pop() else "density"

    @property
    def is_point_mass(self) -> bool:
        """Whether the guide draws a latent that the model spreads from a single point.

        Weights are then all the same and say nothing: their mean is no estimate of p(x).
        """
        return bool(self.point_masses)

    @property
    def point_masses(self) -> tuple[str, ...]:
        """The latents that the guide draws from a single point and the model does not."""
        return point_masses(self.guide_trace, self.model_trace)

    def run(self, fn: Callable, num_particles: int, values: Trace | None = None) -> Trace:
        """Run one program by itself, replaying the values of a trace if given."""
        runner = Runner(fn, fn, self.args, self.kwargs, self.particle_dim)
        return runner.run_guide(num_particles, replay=values)

    def log_weights(self, num_particles: int) -> Float[Tensor, "particles batch"]:
        """Return log Σ_y w_y of new particles, enumerated values summed out."""
        runner = Runner(self.model, self.guide, self.args, self.kwargs, self.particle_dim)
        weights = log_weights(runner, num_particles=num_particles, plate=PLATE)
        check_particles(runner, num_particles)
        return weights.summed(num_particles)


def traced_batches(
    owner: str, pair: ModelAndGuide, inputs: ProgramInputs, rows_per_datum: int
) -> Iterator[TracedBatch]:
    """Yield the pair on some of the data at a time.

    Data times rows per datum times enumerated values are at most ``row_limit``, unless a single
    datum exceeds it.
    """
    limit = row_limit(inputs)
    start, size = 0, max(1, limit // rows_per_datum)
    while start < len(inputs):
        part = inputs.rows(slice(start, start + size))
        if not torch.is_inference_mode_enabled():  # autograd cannot save such tensors for backward
            part = part.replaced(t.clone() if t.is_inference() else t for t in part.tensors)
        batch = traced(owner, pair, part.args, dict(part.kwargs), start)
        fitting = max(1, limit // (rows_per_datum * batch.combinations))
        if len(batch) > fitting:
            size = fitting
            continue
        yield batch
        start += len(batch)


def traced(
    owner: str, pair: ModelAndGuide, args: tuple, kwargs: dict[str, Any], start: int = 0
) -> TracedBatch:
    """Run each program once, without training terms, and check that its weights are of p and q."""
    Signature(owner, pair.model, pair.guide).check(args, kwargs)
    model, guide = without_training_terms(pair.model, pair.guide)
    guide_trace = poutine.trace(Unmasking()(guide)).get_trace(*args, **kwargs)
    model_trace = poutine.trace(Unmasking()(model)).get_trace(*args, **kwargs)
    guide_sites = {site["name"]: site for site in sample_sites(guide_trace)}
    model_sites = {site["name"]: site for site in sample_sites(model_trace)}
    for name, site in guide_sites.items():
        _check_counterpart(owner, site, model_sites.get(name))
    sites = [*guide_sites.values(), *model_sites.values()]
    for site in sites:
        if not site["is_observed"]:
            check_enumeration(site)
    particle_dim = -plate_nesting([guide_trace, model_trace]) - 1
    plate = BatchPlate(PLATE, [model_trace], particle_dim)
    check_all_data(owner, plate.size, len(args[0]))
    for site in sites:
        check_unscaled(owner, site, plate.scale, "poutine.scale, or a subsampled inner plate")
    enumerated = {
        site["name"]: site
        for site in sites
        if site["infer"].get("enumerate") == "parallel" and not site["is_observed"]
    }
    return TracedBatch(
        model,
        guide,
        args,
        kwargs,
        start,
        model_trace,
        guide_trace,
        particle_dim,
        plate,
        latents=tuple(
            name
            for name, site in model_sites.items()
            if not site["is_observed"] and name not in enumerated
        ),
        enumerated=frozenset(enumerated),
        combinations=math.prod(
            len(site["fn"].enumerate_support(expand=False)) for site in enumerated.values()
        ),
    )


def _is_discrete(fn: Any) -> bool | None:
    """Return whether a distribution has masses; None if it does not declare its support."""
    try:
        return bool(fn.support.is_discrete)
    except NotImplementedError:
        return None


def _check_counterpart(owner: str, site: dict, counterpart: dict | None) -> None:
    name = site["name"]
    if counterpart is None or counterpart["is_observed"]:
        state = "not in the model" if counterpart is None else "observed in the model"
        raise ValueError(
            f"{owner}: site {name!r} of the guide is {state}; sample the same latents in both"
        )
    p, q = counterpart["fn"], site["fn"]
    if p.event_shape != q.event_shape:
        raise ValueError(
            f"{owner}: site {name!r} must have the same event shape in model and guide, got "
            f"{tuple(p.event_shape)} and {tuple(q.event_shape)}"
        )
