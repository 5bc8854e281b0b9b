"""A check that programs keep particles apart."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook

from ppl_vae.buffers import on_copies
from ppl_vae.estimators.traces import (
    Runner,
    is_enumerated,
    log_density,
    sample_sites,
    with_values,
)
from ppl_vae.process_state import restored

_MOST = 16  # particles that are run to check them
_Kinds = tuple[tuple[str | int, type], ...]
# model -> guide -> kinds of arguments; weak, so that it keeps no program alive.
_checked: weakref.WeakKeyDictionary[Any, weakref.WeakKeyDictionary[Any, set[_Kinds]]] = (
    weakref.WeakKeyDictionary()
)


class MixedParticlesError(ValueError):
    """A program's densities of one particle depend on the values of others."""


def check_particles(runner: Runner, num_particles: int) -> None:
    """Raise MixedParticlesError, naming the site, if a program loses the particles' dimension.

    Such a program sums over it, or indexes it: ``z.sum(0)`` for an inner plate's ``z.sum(-2)``. Its
    weights are not those of independent particles, and their mean is no estimate of p(x).

    Both programs are run, and again with the values of one particle, the first or the last, for
    all: its densities must stay as they are. A program whose densities differ at the same values,
    as one that counts its calls, cannot be checked. More than 16 particles are checked with 2.
    Modules are in evaluation mode, as batch normalisation is over the particles in training; random
    states and buffers are preserved. Each pair is checked once for each kind of arguments, and not
    while it is traced into a graph or without Pyro's validation.
    """
    if num_particles == 1 or not is_validation_enabled():
        return
    found = _found(runner)
    number = num_particles if num_particles <= _MOST else 2
    kinds: _Kinds = tuple(enumerate(map(type, runner.args)))
    kinds += tuple((name, type(value)) for name, value in runner.kwargs.items())
    if kinds in found or _is_traced():
        return
    copies = on_copies(*runner.modules)
    with poutine.block(), torch.no_grad(), restored(), copies, _evaluating() as joint:
        drawn = runner.run_guide(number)
        first = _rerun(runner, drawn, number)
        for kept in (0, number - 1):
            same = with_values(drawn, partial(_repeated, runner, kept))
            differing = _differing(first, _rerun(runner, same, number), runner.particle_dim, kept)
            if differing is None or joint:
                continue
            again = _rerun(runner, drawn, number)
            if _differing(first, again, runner.particle_dim, kept) is None:
                raise MixedParticlesError(
                    f"site {differing}: one particle's density depends on others; particles have a "
                    f"dimension left of all plates, so count dimensions from the right (z.sum(-2) "
                    f"for z.sum(0)), and keep any on the left"
                )
    found.add(kinds)


def _rerun(runner: Runner, drawn: Trace, number: int) -> dict[str, Trace]:
    """Run both programs at given values, from the same random state."""
    with restored():
        guide = runner.run_guide(number, replay=drawn)
    with restored():
        return {"guide": guide, "model": runner.run_model(drawn, number)}


def _repeated(runner: Runner, kept: int, site: dict) -> Tensor:
    """Return a site's values with those of one particle for all."""
    value, dim = site["value"], runner.particle_dim - site["fn"].event_dim
    if is_enumerated(site) or value.dim() < -dim or value.shape[dim] == 1:
        return value
    return value.narrow(dim, kept, 1).expand(value.shape).contiguous()


def _differing(one: dict[str, Trace], other: dict[str, Trace], dim: int, kept: int) -> str | None:
    """Return the first site whose density of a particle differs, None if there is none."""
    for program, trace in one.items():
        for site in sample_sites(trace):
            again = other[program].nodes.get(site["name"])
            if again is None:
                continue
            first, second = (_of_particle(s, dim, kept) for s in (site, again))
            tolerance = torch.finfo(first.dtype).eps ** 0.5  # rounding may differ between runs
            if first.shape != second.shape or not torch.allclose(
                first, second, rtol=tolerance, atol=tolerance, equal_nan=True
            ):
                return f"{site['name']!r} of the {program}"
    return None


def _of_particle(site: dict, dim: int, kept: int) -> Tensor:
    term = scale_and_mask(log_density(site), site["scale"], site["mask"])
    if term.dim() < -dim or term.shape[dim] == 1:
        return term
    return term.select(dim, kept)


@contextmanager
def _evaluating() -> Iterator[list[nn.Module]]:
    """Put modules in evaluation mode when they are called; yield those that normalise jointly.

    Programs may be functions that hold modules, which only their calls show.
    """
    changed: list[nn.Module] = []
    joint: list[nn.Module] = []

    def evaluate(module: nn.Module, inputs: object) -> None:
        if isinstance(module, _NormBase) and not module.track_running_stats:
            joint.append(module)
        if module.training:
            module.training = False
            changed.append(module)

    handle = register_module_forward_pre_hook(evaluate)
    try:
        yield joint
    finally:
        handle.remove()
        for module in changed:
            module.training = True


def _found(runner: Runner) -> set[_Kinds]:
    """Return the kinds of arguments that a pair was checked with."""
    model, guide = (_key(poutine.unwrap(fn)) for fn in (runner.model, runner.guide))
    try:
        guides = _checked.setdefault(model, weakref.WeakKeyDictionary())
        return guides.setdefault(guide, set())
    except TypeError:  # a program that can be held only strongly
        return set()


def _key(fn: Callable) -> object:
    return getattr(fn, "__self__", fn)  # a bound method is created anew at each access


def _is_traced() -> bool:
    """Return whether values cannot be inspected."""
    return (
        get_proxy_mode() is not None
        or torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
    )
