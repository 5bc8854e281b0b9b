"""Data drawn from a model, with the latents they were drawn from."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from pyro import poutine
from pyro.distributions import Unit
from torch import Tensor, nn

from ppl_vae.errors import describe, positive_int
from ppl_vae.estimators.traces import sample_sites
from ppl_vae.estimators.training_terms import TRAINING_TERM
from ppl_vae.evaluation.signature import MASK, Signature, zero_where_missing
from ppl_vae.protocols import ModelAndGuide

NUM_SIMULATIONS = 1000
"""Simulated data, if nothing else determines their number."""


def simulated(
    owner: str,
    pair: ModelAndGuide,
    num_data: int,
    context: Sequence[Tensor] = (),
    like: Tensor | None = None,
) -> tuple[Tensor, dict[str, dict]]:
    """Draw data from the model and return them with the sites of the run by name,
    without training terms.

    Args:
        context: further arguments of the model.
        like: a tensor of the data's shape, for programs that are called as ``model(x)`` and not as
            ``model(size=n)``.

    Raises:
        TypeError: if the model takes no ``size`` and ``like`` is not given.
        ValueError: if ``like`` has another number of data, or there is no site ``x``.
    """
    if like is not None:
        if len(like) != num_data:
            raise ValueError(
                f"{owner}: like must have num_data={num_data} entries, got {describe(like)}"
            )
        trace = poutine.trace(poutine.uncondition(pair.model)).get_trace(like, *context)
    elif takes_size(pair.model):
        trace = poutine.trace(pair.model).get_trace(None, *context, size=num_data)
    else:
        raise TypeError(
            f"{owner}: {type(pair.model).__name__} has no argument size to draw data; give like="
        )
    sites = {s["name"]: s for s in sample_sites(trace) if not s["infer"].get(TRAINING_TERM)}
    if "x" not in sites:
        raise ValueError(f"{owner}: the data's site must be named 'x', got {sorted(sites)}")
    x = sites["x"]["value"]
    while like is not None and x.dim() > like.dim() and len(x) == 1:
        x = x[0]  # the dimension of an inner plate, left of the batch
    return x, sites


def takes_size(model: nn.Module) -> bool:
    """Return whether a model is called as ``model(size=n)`` to draw n data."""
    return "size" in inspect.signature(model.forward).parameters


@dataclass(frozen=True)
class Simulations:
    """N data to be simulated, some at a time, with their context, mask and like."""

    owner: str
    number: int
    context: tuple[Tensor, ...]
    mask: Tensor | None
    like: Tensor | None

    @classmethod
    def of(
        cls,
        owner: str,
        pair: ModelAndGuide,
        context: tuple[Tensor, ...],
        number: int | None,
        mask: Tensor | None,
        like: Tensor | None,
    ) -> Simulations:
        """Check the arguments, and find N."""
        if number is not None:
            number = positive_int(owner, "num_simulations", number)
        given = [("a further argument", tensor) for tensor in context]
        for name, tensor in [*given, *([] if like is None else [("like", like)])]:
            if not isinstance(tensor, Tensor) or tensor.dim() == 0 or len(tensor) == 0:
                raise TypeError(
                    f"{owner}: {name} must be a tensor with an entry for each simulation, got "
                    f"{describe(tensor)}; data are simulated, for labelled data use reliability"
                )
            if number is not None and len(tensor) != number:
                raise ValueError(
                    f"{owner}: there are {number} simulations, but {name} is {describe(tensor)}; "
                    f"leave out num_simulations, and give an entry for each"
                )
            number = len(tensor)
        if mask is not None and not (isinstance(mask, Tensor) and mask.dtype == torch.bool):
            raise TypeError(
                f"{owner}: mask must be a boolean tensor, True where x is observed, got "
                f"{describe(mask)}"
            )
        Signature(owner, pair.model, pair.guide).check((torch.empty(0), *context), {})
        number = number or NUM_SIMULATIONS
        return cls(owner, number, without_unobserved(pair.model, context), mask, like)

    def blocks(self, size: int) -> Iterator[slice]:
        """Yield the simulations, some at a time."""
        for start in range(0, self.number, size):
            yield slice(start, min(start + size, self.number))

    def simulate(self, pair: ModelAndGuide, rows: slice) -> tuple[Tensor, dict[str, dict]]:
        """Simulate some data."""
        like = None if self.like is None else self.like[rows]
        context = [t[rows] for t in self.context]
        x, sites = simulated(self.owner, pair, rows.stop - rows.start, context, like)
        for name, site in sites.items():
            if isinstance(site["fn"], Unit):
                raise NotImplementedError(
                    f"{self.owner}: the model has a factor {name!r}, which is not simulated; leave "
                    f"it out, or give labels of all data or of none, without -1 among them"
                )
        return x, sites

    def seen(self, x: Tensor, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what the guide sees of some x, and the mask by name."""
        if self.mask is None:
            return x, {}
        shapes = tuple(x.shape[1:]), (self.number, *x.shape[1:])
        if tuple(self.mask.shape) not in shapes:
            raise ValueError(
                f"{self.owner}: mask must have shape {shapes[0]} or {shapes[1]}, got "
                f"{describe(self.mask)}"
            )
        mask = self.mask.to(x.device)
        mask = mask.expand(x.shape) if mask.shape == x.shape[1:] else mask[rows]
        return zero_where_missing(x, mask), {MASK: mask}


def without_unobserved(model: nn.Module, context: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Leave out a last argument of labels, None by default, that are all -1: unobserved."""
    if not context or context[-1].is_floating_point() or bool((context[-1] != -1).any()):
        return context
    arguments = [*inspect.signature(model.forward).parameters.values()][1 : 1 + len(context)]
    optional = len(arguments) == len(context) and arguments[-1].default is None
    return context[:-1] if optional else context
