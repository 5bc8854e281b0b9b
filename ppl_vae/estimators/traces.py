"""Running a guide, and a model against it, with vectorised particles and parallel enumeration.

Dimensions, from the right: the program's plates, the particles, the enumerated values of the guide
and, left of them, those of the model.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.trace_messenger import TraceHandler
from pyro.poutine.util import site_is_subsample
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor, nn

from ppl_vae.buffers import on_copies
from ppl_vae.estimators.handlers import (
    Enumerating,
    KeepsPlates,
    Particles,
    PlatesWithin,
    Recording,
    Replaying,
    check_value,
)
from ppl_vae.process_state import restored

ELBO_INSTEAD = "take the loss of ImportanceWeightedELBO with one particle (the ELBO)"
"""Advice where there is no weight per datum; other estimators, and values per datum, need one."""


class EnumeratedInsideError(NotImplementedError):
    """Values of the guide would have to be enumerated jointly: of a plate, or of a chain."""


@dataclass(frozen=True)
class Runner:
    """A model and a guide with their arguments; ``particle_dim`` is left of all plates."""

    model: Callable
    guide: Callable
    args: tuple
    kwargs: dict[str, Any]
    particle_dim: int

    @property
    def modules(self) -> list[nn.Module]:
        """The programs that are modules, or methods of modules."""
        return modules_of(self.model, self.guide)

    def run_guide(self, num_particles: int, replay: Trace | None = None) -> Trace:
        """Run the guide, replaying the values of another run if one is given."""
        trace = self._run(self.guide, num_particles, self.particle_dim - 1, replay)
        if isinstance(poutine.unwrap(self.guide), GuideMessenger):
            # Such a guide runs the model, whose observations are none of its own.
            for name in [site["name"] for site in sample_sites(trace) if site["is_observed"]]:
                trace.remove_node(name)
        _check_dimensions(trace)
        for site in sample_sites(trace):
            check_value(site)
        return trace

    def run_model(self, guide_trace: Trace, num_particles: int, *, whole: bool = True) -> Trace:
        """Replay the guide's values in the model; ``whole`` if they are of all particles."""
        enumerated = filter(is_enumerated, sample_sites(guide_trace))
        taken = [site["infer"]["_enumerate_dim"] for site in enumerated]
        first = min([self.particle_dim, *taken]) - 1
        model_trace = self._run(self.model, num_particles, first, guide_trace)
        if whole and is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, -self.particle_dim)
        return model_trace

    @property
    def nesting(self) -> int:
        """The number of dimensions that are kept for plates."""
        return -self.particle_dim - 1

    def _run(
        self, fn: Callable, num_particles: int, first_enumeration_dim: int, replay: Trace | None
    ) -> Trace:
        fn = PlatesWithin(self.nesting)(fn)
        fn = Particles(num_particles, self.particle_dim)(fn)
        fn = Enumerating(first_available_dim=first_enumeration_dim)(fn)
        if replay is not None:
            fn = Replaying(trace=replay)(fn)
        trace = TraceHandler(Recording(), fn).get_trace(*self.args, **self.kwargs)
        if is_validation_enabled():
            trace.compute_log_prob()
            for site in sample_sites(trace):
                check_site_shape(site, -self.particle_dim)
        return trace


class PairCache:
    """What was found of a model/guide pair, kept for that pair alone."""

    def __init__(self) -> None:
        self._pair: tuple[Callable[[], object], Callable[[], object]] | None = None
        self._found: Any = None

    def __getstate__(self) -> dict[str, object]:
        return {"_pair": None, "_found": None}  # weak references can be neither pickled nor copied

    def get(self, model: Callable, guide: Callable) -> Any:
        """Return what was kept for this pair, or None."""
        known = self._pair is not None and (self._pair[0](), self._pair[1]())
        return self._found if known == (_bare(model), _bare(guide)) else None

    def keep(self, model: Callable, guide: Callable, found: Any) -> None:
        """Keep something for this pair, instead of the last one."""
        self._pair, self._found = (_weak(_bare(model)), _weak(_bare(guide))), found


class PlateNesting:
    """The number of dimensions that the plates of a model/guide pair take.

    Found by running the pair once, random state and buffers preserved, and cached for that pair;
    Pyro's estimators keep it for whatever pair comes next.
    """

    def __init__(self) -> None:
        self._cache = PairCache()

    def __call__(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> int:
        """Return the number of dimensions, 1 for a single batch plate."""
        nesting = self._cache.get(model, guide)
        return self.anew(model, guide, args, kwargs) if nesting is None else nesting

    def anew(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> int:
        """Return the number for these arguments too, with which a pair may have more plates."""
        known = self._cache.get(model, guide) or 0
        nesting = max(known, _plate_nesting(model, guide, args, kwargs))
        self._cache.keep(model, guide, nesting)
        return nesting


def sample_sites(trace: Trace) -> Iterator[dict]:
    """Yield the random sites, without subsampling statements and observations masked out entirely.

    A latent that is masked out is still drawn, and is yielded.
    """
    for site in trace.nodes.values():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        if site["mask"] is not False or not site["is_observed"]:
            yield site


def subsamples(trace: Trace) -> dict[str, dict]:
    """Return the subsampling statements of a trace by name."""
    return {name: site for name, site in trace.nodes.items() if site_is_subsample(site)}


def log_density(site: dict) -> Tensor:
    """Return a site's log-density, unscaled and unmasked; computed once."""
    if "unscaled_log_prob" not in site:
        fn = getattr(site["fn"], "of_one_particle", site["fn"])
        log_prob = fn.log_prob(site["value"], *site["args"], **site["kwargs"])
        if fn is not site["fn"] and log_prob.dim() < len(site["fn"].batch_shape):
            log_prob = log_prob.expand(site["fn"].batch_shape)  # of a value without particles
        site["unscaled_log_prob"] = log_prob
    return site["unscaled_log_prob"]


def is_enumerated(site: dict) -> bool:
    """Return whether the site's values are enumerated, in a dimension of their own."""
    return site["infer"].get("_enumerate_dim") is not None


def is_given_latent(site: dict) -> bool:
    """Return whether an observed site would otherwise be enumerated, as a label is."""
    return site["is_observed"] and site["infer"].get("enumerate") == "parallel"


def point_masses(guide_trace: Trace, model_trace: Trace) -> tuple[str, ...]:
    """Return the latents that a guide draws from a single point and the model does not."""
    spread = {site["name"] for site in sample_sites(model_trace) if not is_point_mass(site["fn"])}
    return tuple(
        site["name"]
        for site in sample_sites(guide_trace)
        if is_point_mass(site["fn"]) and site["name"] in spread
    )


def total(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of terms that broadcast, 0 if there are none."""
    first, *others = [*terms] or [torch.zeros(())]
    return sum(others, first)


def with_values(trace: Trace, change: Callable[[dict], Tensor]) -> Trace:
    """Return a trace whose values are ``change(site)``, log-densities not yet computed."""
    changed = trace.copy()
    for site in sample_sites(trace):
        kept = {key: item for key, item in site.items() if "log_prob" not in key}
        changed.nodes[site["name"]] = {**kept, "value": change(site)}
    return changed


def narrowed(trace: Trace, particle_dim: int, start: int, length: int) -> Trace:
    """Return a trace with the values of ``length`` particles from ``start`` on."""

    def slice_of(site: dict) -> Tensor:
        value, dim = site["value"], particle_dim - site["fn"].event_dim
        if value.dim() < -dim or value.shape[dim] == 1:
            return value
        return value.narrow(dim, start, length)

    return with_values(trace, slice_of)


def plate_nesting(traces: list[Trace]) -> int:
    """Return the number of dimensions that the plates of some traces take."""
    sites = [s for trace in traces for s in trace.nodes.values() if s["type"] == "sample"]
    frames = [frame for site in sites for frame in site["cond_indep_stack"]]
    return max((-frame.dim for frame in frames if frame.vectorized), default=0)


def is_point_mass(fn: Any) -> bool:
    """Return whether a distribution has all its mass at one point."""
    while not isinstance(fn, Delta) and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, Delta)


def modules_of(*programs: Callable) -> list[nn.Module]:
    """Return the programs that are modules, or methods of modules."""
    owners = (getattr(fn, "__self__", fn) for fn in map(poutine.unwrap, programs))
    return [owner for owner in owners if isinstance(owner, nn.Module)]


def _plate_nesting(model: Callable, guide: Callable, args: tuple, kwargs: dict) -> int:
    with poutine.block(), torch.no_grad(), restored(), on_copies(*modules_of(model, guide)):
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        replayed = poutine.replay(model, trace=guide_trace)
        model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
    return plate_nesting([guide_trace, model_trace])


def _bare(fn: Callable) -> Callable:
    """Return a program without the handlers around it that leave its plates unchanged."""
    while True:
        inner = getattr(fn, "func", None)  # a wrapped program holds handler and program
        if not (isinstance(inner, partial) and len(inner.args) == 2):
            return fn
        handler, program = inner.args
        if not isinstance(handler, KeepsPlates):
            return fn
        fn = program


def _check_dimensions(trace: Trace) -> None:
    """Raise an error if two sites share an enumeration dimension, as in ``pyro.markov``."""
    owners: dict[int, str] = {}
    for site in filter(is_enumerated, sample_sites(trace)):
        owner = owners.setdefault(site["infer"]["_enumerate_dim"], site["name"])
        if owner != site["name"]:
            raise EnumeratedInsideError(
                f"site {site['name']!r} of the guide is enumerated in the dimension of {owner!r}, "
                f"as steps of a pyro.markov chain are; leave out pyro.markov, enumerate in the "
                f"model alone, or {ELBO_INSTEAD}"
            )


def _weak(fn: Callable) -> Callable[[], object]:
    # A bound method is created anew at each access.
    return weakref.WeakMethod(fn) if inspect.ismethod(fn) else weakref.ref(fn)
