"""Sums of products in logarithms, as a backend of ``opt_einsum``.

Pyro's own backend (``pyro.ops.einsum.torch_log``) shifts each factor by its largest value and
multiplies: where one factor favours a value by a hundred nats and another one a second value,
as log-likelihoods of images do, the products underflow. Here logarithms are added first.
"""

from __future__ import annotations

from typing import Any

from pyro.ops.einsum.util import Tensordot
from pyro.ops.rings import LogRing
from torch import Tensor

from ppl_vae.estimators.power_means import log_sum


class StableLogRing(LogRing):
    """Pyro's ring of logarithms without underflow."""

    _backend = __name__


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """Return log Σ exp Σ_i operand_i, summed over the symbols that the output lacks.

    It is -∞ where all terms are, with derivative 0.
    """
    inputs, output = equation.split("->")
    summed = sorted({*inputs} - {*output, ","})
    order = [*summed, *output]
    terms = [
        _in_order(operand, symbols, order)
        for operand, symbols in zip(operands, inputs.split(","), strict=True)
    ]
    joint = sum(terms[1:], terms[0])
    if not summed:
        return joint
    total = log_sum(joint, tuple(range(len(summed))))
    return total.reshape(total.shape[len(summed) :])


def transpose(term: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the term with its dimensions in another order."""
    return term.permute(axes)


def _in_order(term: Tensor, symbols: str, order: list[str]) -> Tensor:
    """Return the term with a dimension for each symbol, of size 1 where it has none."""
    term = term.permute([symbols.index(s) for s in order if s in symbols])
    sizes = iter(term.shape)
    return term.reshape([next(sizes) if s in symbols else 1 for s in order])


tensordot: Any = Tensordot(einsum)
