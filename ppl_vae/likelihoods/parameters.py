"""How the output of a network becomes the parameters of a likelihood."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ppl_vae.conditional import NeuralConditional
from ppl_vae.distributions.scale import MIN_SCALE, inverse_softplus, positive_scale
from ppl_vae.errors import describe, integer, sizes

Positive: TypeAlias = int | float | Literal["learned", "per-pixel"]
"""A positive parameter: a fixed number, one learned for all elements, or one from the network."""


def widened(event_shape: Sequence[int], count: int) -> tuple[int, ...]:
    """Return the shape with room for ``count`` parameters per element: the first size times it."""
    shape = sizes("net_shape", "event_shape", event_shape)
    if not shape:
        raise ValueError("net_shape: event_shape must have a size or more, got ()")
    first, *rest = shape
    return (count * first, *rest)


def grouped(owner: str, outputs: Tensor, event_dim: int, count: int, meaning: str) -> Tensor:
    """Split parameters on the first event dimension and move them to the last.

    Args:
        owner: the likelihood's class, for messages.
        outputs: shape ``(..., count * first, *rest)``, parameter-major: the first parameter of
            every element, then the second.
        event_dim: number of dimensions of one datum.
        count: number of parameters per element.
        meaning: what they are, for messages.

    Returns:
        Shape ``(..., first, *rest, count)``.
    """
    if outputs.dim() < event_dim or outputs.shape[-event_dim] % count:
        raise ValueError(
            f"{owner}: net must return {meaning}, a multiple of {count} in dimension {-event_dim}, "
            f"got an output of shape {tuple(outputs.shape)}; {owner}.net_shape gives the shape"
        )
    apart = outputs.unflatten(-event_dim, (count, -1))
    return apart.movedim(-event_dim - 1, -1)


class WithPositive(NeuralConditional, ABC):
    """A likelihood with positive parameters, which `declare` declares."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WithPositive:
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            if name.startswith(_FIXED) and buffer is not None:
                # 0.1 of float32 is another number in float64 than 0.1.
                value = _number(getattr(self, name.removeprefix(_FIXED)))
                self._buffers[name] = torch.full_like(buffer, value)
        return self


_FIXED = "_fixed_"


def declare(
    likelihood: WithPositive,
    name: str,
    value: int | float | str,
    words: Sequence[str] = ("learned", "per-pixel"),
) -> None:
    """Give a likelihood the buffer or the parameter of a positive parameter.

    A fixed number is a buffer; ``"per-pixel"`` needs none; any other of the words is the parameter
    ``unconstrained_<name>``, 1 at the start.

    Raises:
        ValueError: if the value is none of these.
    """
    if isinstance(value, str) and value in words and value != "per-pixel":
        start = nn.Parameter(inverse_softplus(torch.ones(())))
        likelihood.register_parameter(f"unconstrained_{name}", start)
    elif value != "per-pixel" and not _is_positive(value):
        *learned, _ = (repr(word) for word in words)
        raise ValueError(
            f"{type(likelihood).__name__}: {name} must be a positive number (fixed, 1e-18 to 1e18, "
            f"whose square float32 has), {' or '.join(learned)} (one for all pixels) or "
            f"'per-pixel' (from the network), got {describe(value)}"
        )
    likelihood.register_buffer(f"{_FIXED}{name}", torch.tensor(_number(value)), persistent=False)


def plain(value: Any) -> Any:
    """Return a number as one of Python, which configurations and copies are made of."""
    if not isinstance(value, Real) or isinstance(value, (int, float)):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def count_with(value: int | float | str) -> int:
    """Return how many numbers per element the network returns: 2 where it gives the parameter."""
    return 2 if value == "per-pixel" else 1


def location_and(
    likelihood: nn.Module,
    name: str,
    outputs: Tensor,
    event_dim: int,
    least: int | float = MIN_SCALE,
) -> tuple[Tensor, Tensor]:
    """Return the location's outputs and the positive parameter that `declare` declared.

    One that is not fixed is softplus(.) + least.

    Raises:
        ValueError: if the network must give both and its output cannot be halved.
    """
    value = getattr(likelihood, name)
    if value == "per-pixel":
        owner = type(likelihood).__name__
        meaning = f"mean and unconstrained {name} (with {name}='per-pixel')"
        location, unconstrained = grouped(owner, outputs, event_dim, 2, meaning).unbind(-1)
        return location, positive_scale(unconstrained, least)
    if isinstance(value, str):
        return outputs, positive_scale(getattr(likelihood, f"unconstrained_{name}"), least)
    return outputs, getattr(likelihood, f"{_FIXED}{name}")


def at_least_two(owner: str, levels: int) -> int:
    """Return the number of grey levels; raise an error that names it if it is below 2."""
    return integer(owner, "levels", levels, 2, "it is 256 for 8-bit grey values")


def _number(value: int | float | str) -> float:
    return 1.0 if isinstance(value, str) else float(value)


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return 1e-18 <= float(value) <= 1e18
