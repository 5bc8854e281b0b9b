"""Comparing what a graph does with what the function does that it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ppl_vae.compilation.saved_state import SavedState
from ppl_vae.random_state import snapshot

Tensors = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Outcome:
    """What a run of a function, or of its graph, leaves behind."""

    results: Tensors
    written: list[Tensor]  # new values of the modules' tensors that it wrote to
    generators: list[Tensor]  # states of torch's random number generators

    @classmethod
    def of(
        cls, function: Callable[..., Tensors], tensors: Sequence[Tensor], before: SavedState
    ) -> Outcome:
        """Run a function."""
        results = function(*tensors)
        of_torch, of_cuda, _, _ = snapshot()
        return cls(results, before.changed_tensors(), [of_torch, *of_cuda])

    @property
    def tensors(self) -> Tensors:
        """All results and all tensors written to."""
        return (*self.results, *self.written)

    def equals(self, other: Outcome) -> bool:
        """Return whether results and tensors written to are equal bit for bit."""
        ours, theirs = self.tensors, other.tensors
        return len(ours) == len(theirs) and all(map(_equal, ours, theirs))


def other_generators() -> tuple:
    """Return the states of the generators that graphs do not draw from: numpy's and Python's."""
    _, _, (_, keys, *others), of_python = snapshot()
    return keys.tobytes(), others, of_python


def tolerance(traced: fx.GraphModule) -> float:
    """Return the relative error that rounding in another order may cause.

    A graph sums at most n numbers, those of its largest tensor. The roundings of n additions are
    independent and come to √n ε, relative to a sum of numbers of one sign; 16 √n ε allows for some
    cancellation, and for 3 ε of elementary functions. Sums are in float32 at least; intermediate
    values of fewer digits, where few are summed, are off by 16 of their ε.
    """
    tensors = [
        value
        for node in traced.graph.nodes
        if isinstance(value := node.meta.get("val"), Tensor) and value.is_floating_point()
    ]
    coarse = max((torch.finfo(t.dtype).eps for t in tensors), default=0.0)
    fine = min(coarse, torch.finfo(torch.float32).eps)
    most = max((t.numel() for t in tensors), default=0)
    return max(16 * most**0.5 * fine, 16 * coarse)


def relative_error(got: Outcome, expected: Outcome, perturbed: Outcome | None = None) -> float:
    """Return the greatest error of a tensor, relative to its greatest entry.

    Differences up to 16 times those of a run with perturbed parameters do not count.
    """
    errors = [0.0]
    others = (perturbed or expected).tensors
    for ours, theirs, other in zip(got.tensors, expected.tensors, others, strict=True):
        if ours is None or theirs is None or other is None:
            errors.append(0.0 if ours is theirs else math.inf)
        elif theirs.is_floating_point():
            errors.append(_distance(ours, theirs, other))
        else:
            errors.append(0.0 if torch.equal(ours, theirs) else math.inf)
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def _distance(got: Tensor, expected: Tensor, perturbed: Tensor) -> float:
    # Infinities, such as the logarithm of a zero weight, must be equal and have no size.
    finite = expected.abs().where(expected.isfinite(), 0.0)
    size = finite.max().clamp(min=torch.finfo(expected.dtype).tiny)
    difference = (got - expected).abs().where(got != expected, 0.0)
    moved = (perturbed - expected).abs().where(perturbed != expected, 0.0).max()
    return ((difference.max() - 16 * moved).clamp(min=0.0) / size).item()
