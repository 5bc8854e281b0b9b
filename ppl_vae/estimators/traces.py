"""Running a guide, and a model against it, with vectorised particles and parallel enumeration."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape

PARTICLES = "num_particles_vectorized"
"""The name of the particles' plate, as in Pyro's own estimators."""


class TracePair(NamedTuple):
    """The traces of one joint run, log-densities computed, and where the particles are."""

    model: Trace
    guide: Trace
    particle_dim: int


class PlateNesting:
    """How many dimensions the plates of a model/guide pair take.

    The answer is found by running the pair once, random state preserved, and is kept for as long as
    the same pair comes; Pyro's estimators keep it for whatever pair comes next.
    """

    def __init__(self) -> None:
        self._pair: tuple[Callable[[], object], Callable[[], object]] | None = None
        self._nesting = 0

    def __getstate__(self) -> dict[str, object]:
        return {"_pair": None, "_nesting": 0}  # weak references cannot be pickled or copied

    def __call__(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> int:
        """Return the number of dimensions, 1 for a single batch plate."""
        if self._pair is None or self._pair[0]() != model or self._pair[1]() != guide:
            self._nesting = _plate_nesting(model, guide, args, kwargs)
            self._pair = (_weak(model), _weak(guide))
        return self._nesting


def trace_pair(
    model: Callable,
    guide: Callable,
    args: tuple,
    kwargs: dict[str, Any],
    *,
    num_particles: int,
    max_plate_nesting: int,
) -> TracePair:
    """Run the guide, then the model replayed against it.

    Dimensions, from the right: the program's plates, the particles, then the enumerated values of
    the guide and, left of them, those of the model.
    """
    particle_dim = -max_plate_nesting - 1

    def vectorised(fn: Callable, enumeration: EnumMessenger) -> Callable:
        return enumeration(pyro.plate(PARTICLES, num_particles, dim=particle_dim)(fn))

    guide = vectorised(guide, EnumMessenger(first_available_dim=particle_dim - 1))
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    # The model's enumeration goes on where the guide's ended.
    model = poutine.replay(vectorised(model, EnumMessenger()), trace=guide_trace)
    model_trace = poutine.trace(model).get_trace(*args, **kwargs)
    if is_validation_enabled():
        check_model_guide_match(model_trace, guide_trace, -particle_dim)
    guide_trace = prune_subsample_sites(guide_trace)
    model_trace = prune_subsample_sites(model_trace)
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob()
        if is_validation_enabled():
            for site in trace.nodes.values():
                if site["type"] == "sample":
                    check_site_shape(site, -particle_dim)
    return TracePair(model_trace, guide_trace, particle_dim)


def _plate_nesting(model: Callable, guide: Callable, args: tuple, kwargs: dict) -> int:
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with poutine.block(), torch.no_grad(), torch.random.fork_rng(devices=devices):
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(
            *args, **kwargs
        )
    return max(
        (
            -frame.dim
            for trace in (guide_trace, model_trace)
            for site in trace.nodes.values()
            if site["type"] == "sample"
            for frame in site["cond_indep_stack"]
            if frame.vectorized
        ),
        default=0,
    )


def _weak(fn: Callable) -> Callable[[], object]:
    # A bound method is made anew at each access; its parts live on.
    return weakref.WeakMethod(fn) if inspect.ismethod(fn) else weakref.ref(fn)
