"""A check that programs keep particles apart."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
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
from ppl_vae.random_state import restored

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
    all: its densities must stay as they are. More than 16 particles are checked with 2. Modules are
    in evaluation mode, as batch normalisation is over the particles in training; random states and
    buffers are preserved. Each pair is checked once for each kind of arguments, and not while it is
    traced into a graph.
    """
    if num_particles == 1:
        return
    found = _found(runner)
    number = num_particles if num_particles <= _MOST else 2
    kinds = tuple(
        (name, type(value)) for name, value in (*enumerate(runner.args), *runner.kwargs.items())
    )
    if kinds in found or _is_traced():
        return
    modules = [fn for fn in map(poutine.unwrap, (runner.model, runner.guide)) if _is_module(fn)]
    with poutine.block(), torch.no_grad(), restored(), on_copies(*modules), _evaluating() as joint:
        guide = runner.run_guide(number)
        with restored():
            model = runner.run_model(guide, number)
        for kept in (0, number - 1):
            same = with_values(guide, lambda site, kept=kept: _repeated(site, runner, kept))
            with restored():
                replayed = runner.run_guide(number, replay=same)
            with restored():
                remodelled = runner.run_model(same, number)
            if joint:
                break
            _compare(guide, replayed, runner.particle_dim, kept, "guide")
            _compare(model, remodelled, runner.particle_dim, kept, "model")
    found.add(kinds)


def _repeated(site: dict, runner: Runner, kept: int) -> Tensor:
    """Return a site's values with those of one particle for all."""
    value, dim = site["value"], runner.particle_dim - site["fn"].event_dim
    if is_enumerated(site) or value.dim() < -dim or value.shape[dim] == 1:
        return value
    return value.narrow(dim, kept, 1).expand(value.shape).contiguous()


def _compare(one: Trace, other: Trace, dim: int, kept: int, program: str) -> None:
    for site in sample_sites(one):
        again = other.nodes.get(site["name"])
        if again is None:
            continue
        first, second = (_of_particle(s, dim, kept) for s in (site, again))
        # Rounding may differ between runs.
        tolerance = torch.finfo(first.dtype).eps ** 0.5
        if first.shape == second.shape and torch.allclose(
            first, second, rtol=tolerance, atol=tolerance, equal_nan=True
        ):
            continue
        raise MixedParticlesError(
            f"site {site['name']!r} of the {program}: one particle's density depends on others; "
            f"particles have a dimension left of all plates, so count dimensions from the right "
            f"(z.sum(-2) for z.sum(0)), and keep any on the left"
        )


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


def _is_module(fn: object) -> bool:
    return isinstance(fn, nn.Module)


def _is_traced() -> bool:
    """Return whether values cannot be inspected."""
    return (
        get_proxy_mode() is not None
        or torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
    )
