"""The validation NELBO against seconds: how it is measured, and when it passes a bound."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import NamedTuple

import torch
from rows import Layers
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW = 4
"""Evaluations, one after another, that make a point of the smooth curve."""
MIN_SCALE = 1e-4


class Point(NamedTuple):
    """A point of a curve: the validation NELBO in nats per datum."""

    steps: float
    seconds: float
    nelbo: float


@torch.no_grad()
def nelbo(layers: dict[str, Layers], x: Tensor, draws: Tensor, activation: str) -> float:
    """Return -E_q[log p(x | z)] + KL(q(z | x) ‖ p(z)) in nats per datum, the KL in closed form.

    Args:
        layers: weight and bias of each layer of ``encoder`` and ``decoder``.
        x: binary images, shape ``(N, pixels)``.
        draws: ε of z = μ + σ ε, shape ``(N, latent)``.
        activation: class of ``torch.nn`` between layers.
    """
    function = getattr(nn, activation)()
    loc, unconstrained = _output(layers["encoder"], x, function).chunk(2, -1)
    scale = F.softplus(unconstrained) + MIN_SCALE
    logits = _output(layers["decoder"], loc + scale * draws, function)
    cost = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    kl = 0.5 * (loc.square() + scale.square() - 2 * scale.log() - 1).sum(-1)
    return (cost + kl).mean().item()


def smooth(curve: Sequence[Point]) -> list[Point]:
    """Return the means of steps, seconds and NELBO over `WINDOW` evaluations one after another.

    The point lies in the middle of its evaluations in both directions, and so on a straight line
    where they do: it lags behind no more than they scatter.
    """
    windows = (curve[i : i + WINDOW] for i in range(len(curve) - WINDOW + 1))
    return [Point(*(fmean(values) for values in zip(*w, strict=True))) for w in windows]


def passing(curve: Sequence[Point], bound: float) -> Point | None:
    """Return where the smooth curve passes a bound, or None if it does not.

    It does where two of its points in a row are at the bound or below for the first time, at the
    bound on the straight line from the point before to the first of them.
    """
    points = smooth(curve)
    for i, (first, second) in enumerate(pairwise(points)):
        if max(first.nelbo, second.nelbo) > bound:
            continue
        if i == 0:
            return first
        before = points[i - 1]
        share = (before.nelbo - bound) / (before.nelbo - first.nelbo)
        return Point(*(a + share * (b - a) for a, b in zip(before, first, strict=True)))
    return None


def at(curve: Sequence[Point], steps: int) -> float:
    """Return the mean NELBO of the last `WINDOW` evaluations up to a number of steps."""
    return fmean(point.nelbo for point in [p for p in curve if p.steps <= steps][-WINDOW:])


def milliseconds(curve: Sequence[Point]) -> float:
    """Return the median time per step, but for those before the first evaluation."""
    return median(
        1e3 * (b.seconds - a.seconds) / (b.steps - a.steps) for a, b in pairwise(curve[1:])
    )


def start_up(curve: Sequence[Point]) -> float:
    """Return the seconds before the first evaluation that its steps do not explain."""
    return curve[1].seconds - curve[1].steps * milliseconds(curve) / 1e3


def _output(layers: Layers, x: Tensor, activation: nn.Module) -> Tensor:
    *hidden, (last, last_bias) = layers
    for weight, bias in hidden:
        x = activation(F.linear(x, weight, bias))
    return F.linear(x, last, last_bias)
