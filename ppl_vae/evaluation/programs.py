"""A pair on some of the data: what its sites are, and how many rows its networks would see."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.estimators.datum import Datum
from ppl_vae.estimators.handlers import Unmasking, check_enumeration
from ppl_vae.estimators.traces import Program, plate_nesting, sample_sites
from ppl_vae.evaluation.arguments import Arguments
from ppl_vae.evaluation.bits import Kind
from ppl_vae.evaluation.bounds import MAX_ROWS, check_all_data, scored
from ppl_vae.evaluation.signature import Signature
from ppl_vae.protocols import ModelAndGuide

PLATE = "data"
"""The name of the batch plate."""

_CACHED = 20


def row_limit(data: Tensor | Arguments) -> int:
    """Return how many rows go through the networks at once, for data of this device.

    ``MAX_ROWS`` on an accelerator. A twentieth on a processor, whose cache then holds more of them:
    it is faster there, and a prior of 500 components keeps to a few hundred MiB.
    """
    return MAX_ROWS if data.device.type != "cpu" else MAX_ROWS // _CACHED


@dataclass(frozen=True)
class Batch:
    """A pair with the arguments of some of the data, and what one run of each program showed.

    Args:
        model: the generative program.
        guide: the variational program.
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        start: index of the first datum.
        model_trace: a run of the model, its latents drawn from the prior.
        guide_trace: a run of the guide.
        particle_dim: the first dimension left of all plates.
        datum: where the batch is.
        latents: the model's latent sites that are not enumerated.
        enumerated: the sites that model or guide enumerates.
        combinations: how many joint values the enumerated sites have.
    """

    model: Callable
    guide: Callable
    args: tuple
    kwargs: dict[str, Any]
    start: int
    model_trace: Trace
    guide_trace: Trace
    particle_dim: int
    datum: Datum
    latents: tuple[str, ...]
    enumerated: frozenset[str]
    combinations: int

    def __len__(self) -> int:
        return self.datum.batch_size

    @property
    def program(self) -> Program:
        """Model and guide, for running with particles and enumeration."""
        return Program(self.model, self.guide, self.args, self.kwargs, self.particle_dim)

    @property
    def kind(self) -> Kind | None:
        """What p(x) is; None if it cannot be told.

        A label that is given, and would be enumerated, is no part of x; nor is a ``pyro.factor``.
        """
        discrete = {
            _is_discrete(site["fn"])
            for site in sample_sites(self.model_trace)
            if site["is_observed"]
            and site["infer"].get("enumerate") != "parallel"
            and 0 not in site["fn"].event_shape
        }
        if None in discrete or not discrete:
            return None
        if len(discrete) > 1:
            return "both"
        return "mass" if discrete.pop() else "density"

    def run(self, fn: Callable, num_particles: int, values: Trace | None = None) -> Trace:
        """Run one program by itself, at the values of a trace where it has them."""
        program = Program(fn, fn, self.args, self.kwargs, self.particle_dim)
        return program.run_guide(num_particles, replay=values)

    def per_particle(self, term: Tensor, num_particles: int) -> Tensor:
        """Bring a term with nothing left but particles and batch to ``(particles, batch)``."""
        sizes = [1] * -self.particle_dim
        sizes[0], sizes[self.datum.batch_dim] = num_particles, len(self)
        term = term.expand(torch.broadcast_shapes(term.shape, tuple(sizes)))
        return term.reshape(num_particles, len(self))


class Enumerating(Messenger):
    """Have some sites enumerated in parallel, or sampled, whatever the program says.

    Args:
        names: the sites.
        how: ``"parallel"``, or None for sampling.
    """

    def __init__(self, names: frozenset[str], how: str | None) -> None:
        super().__init__()
        self._names = names
        self._how = how

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] in self._names:
            # A new dictionary: the program's own may be shared between its runs.
            msg["infer"] = {**msg["infer"], "enumerate": self._how}


def batches(
    owner: str, pair: ModelAndGuide, given: Arguments, rows_per_datum: int
) -> Iterator[Batch]:
    """Yield the pair on some of the data at a time.

    Data times rows per datum times enumerated values are at most ``row_limit``, where one datum
    alone does not exceed it.

    Raises:
        ValueError: as :func:`examined` does.
    """
    rows = row_limit(given)
    start, size = 0, max(1, rows // rows_per_datum)
    while start < len(given):
        some = given.rows(slice(start, start + size))
        batch = examined(owner, pair, some.args, dict(some.kwargs), start)
        fitting = max(1, rows // (rows_per_datum * batch.combinations))
        if len(batch) > fitting:
            size = fitting
            continue
        yield batch
        start += len(batch)


def examined(
    owner: str, pair: ModelAndGuide, args: tuple, kwargs: dict[str, Any], start: int = 0
) -> Batch:
    """Run each program once and return what there is, or raise an error.

    Terms of training are left out, see :func:`ppl_vae.evaluation.bounds.scored`.

    Raises:
        ValueError: if a program does not take an argument, or needs another; if a site of the guide
            is not in the model or of another shape there, or if a site is scaled, so that the
            weights would not be those of p and q.
    """
    Signature(owner, pair.model, pair.guide).check(args, kwargs)
    model, guide = scored(pair.model, pair.guide)
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
    nesting = plate_nesting([guide_trace, model_trace])
    datum = Datum(PLATE, [model_trace], -nesting - 1)
    check_all_data(owner, datum.batch_size, len(args[0]))
    for site in sites:
        _check_unscaled(owner, site, datum)
    enumerated = {site["name"]: site for site in sites if _is_to_be_enumerated(site)}
    return Batch(
        model,
        guide,
        args,
        kwargs,
        start,
        model_trace,
        guide_trace,
        -nesting - 1,
        datum,
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
    """Tell whether a distribution has masses; None where it does not say what its support is."""
    try:
        return bool(fn.support.is_discrete)
    except NotImplementedError:
        return None


def _is_to_be_enumerated(site: dict) -> bool:
    return site["infer"].get("enumerate") == "parallel" and not site["is_observed"]


def _check_counterpart(owner: str, site: dict, counterpart: dict | None) -> None:
    name = site["name"]
    if counterpart is None or counterpart["is_observed"]:
        state = "not in the model" if counterpart is None else "observed in the model"
        raise ValueError(
            f"{owner}: site {name!r} of the guide is {state}, so that the weights p/q do not have "
            f"the mean p(x); sample the same latents in model and guide"
        )
    p, q = counterpart["fn"], site["fn"]
    if p.event_shape != q.event_shape:
        raise ValueError(
            f"{owner}: site {name!r} has event shape {tuple(p.event_shape)} in the model and "
            f"{tuple(q.event_shape)} in the guide; prior and posterior must have the same latent "
            f"dimensions"
        )


def _check_unscaled(owner: str, site: dict, datum: Datum) -> None:
    if PLATE not in (frame.name for frame in site["cond_indep_stack"]):
        return  # a site outside the plate is refused where its density is read
    factor = torch.as_tensor(site["scale"] / datum.scale)
    if (factor != 1).any():
        raise ValueError(
            f"{owner}: the log-density of site {site['name']!r} is scaled by {factor.tolist()} "
            f"(poutine.scale, or a subsampled inner plate), so that the weights are not those of "
            f"log p(x); evaluate the pair without it"
        )
