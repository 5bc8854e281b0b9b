"""Base classes of likelihoods, and how a network's output becomes their parameters."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ppl_vae.conditional import NeuralConditional
from ppl_vae.distributions.scale import MIN_SCALE, is_positive, positive_scale
from ppl_vae.errors import describe, positive_int, sizes

Positive: TypeAlias = int | float | Literal["learned", "per-pixel"]
"""A positive parameter: a fixed number, one learned for all elements, or one from the network."""


class Elementwise(NeuralConditional, ABC):
    """A likelihood p(x | z) = Π_d p(x_d; net(z)_d) of data with ``event_dim`` dimensions.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)``.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
    """

    def __init__(self, net: nn.Module, *, event_dim: int = 1) -> None:
        super().__init__(net)
        self.event_dim = positive_int(type(self).__name__, "event_dim", event_dim)

    def outputs(self, *context: Tensor) -> Tensor:
        """Return the network's output, of at least ``event_dim`` dimensions."""
        outputs = super().outputs(*context)
        if outputs.dim() < self.event_dim:
            raise ValueError(
                f"{type(self).__name__}: net must return event_dim={self.event_dim} dimensions for "
                f"a datum, got an output of shape {tuple(outputs.shape)}; give event_dim=1 for "
                f"flat data"
            )
        return outputs

    @staticmethod
    def net_shape(event_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the network's output per datum: one number per element."""
        return shape_of_outputs(event_shape, 1)


def shape_of_outputs(event_shape: Sequence[int], count: int) -> tuple[int, ...]:
    """Return the shape of ``count`` outputs per element: the first size multiplied by it."""
    shape = sizes("net_shape", "event_shape", event_shape)
    if not shape:
        raise ValueError("net_shape: event_shape must have at least one size, got ()")
    first, *rest = shape
    return (count * first, *rest)


def split_outputs(owner: str, outputs: Tensor, event_dim: int, count: int, meaning: str) -> Tensor:
    """Return outputs ``(..., count * first, *rest)`` as ``(..., first, *rest, count)``.

    They are parameter-major: the first parameter of every element, then the second. ``meaning`` is
    that of the parameters, for messages.
    """
    if outputs.dim() < event_dim or outputs.shape[-event_dim] % count:
        raise ValueError(
            f"{owner}: net must return {meaning}, a multiple of {count} in dimension {-event_dim}, "
            f"got an output of shape {tuple(outputs.shape)}; {owner}.net_shape gives the shape"
        )
    return outputs.unflatten(-event_dim, (count, -1)).movedim(-event_dim - 1, -1)


class WithPositiveParameter(Elementwise, ABC):
    """A likelihood with a location and a positive parameter, such as a scale or a dispersion."""

    def declare_positive(
        self,
        name: str,
        value: int | float | str,
        words: Sequence[str] = ("learned", "per-pixel"),
        elements: Sequence[int] = (),
    ) -> None:
        """Register the positive parameter and keep its value as the attribute ``name``.

        A fixed number becomes a buffer; ``"per-pixel"`` is computed by the network; any other word
        becomes the parameter ``log_<name>``, initially 0, of the shape ``elements`` if the word is
        ``"per-element"``. Adam moves a logarithm to any order of magnitude in as many steps, and a
        softplus by its rate at each.

        Raises:
            ValueError: if the value is none of these.
        """
        value = as_python_number(value)
        setattr(self, name, value)
        if isinstance(value, str) and value in words and value != "per-pixel":
            shape = tuple(elements) if value == "per-element" else ()
            self.register_parameter(f"log_{name}", nn.Parameter(torch.zeros(shape)))
        elif not is_word(value, "per-pixel") and not is_positive(value):
            learned = " or ".join(repr(word) for word in words if not word.startswith("per-"))
            each = ", 'per-element' (one for each pixel)" if "per-element" in words else ""
            raise ValueError(
                f"{type(self).__name__}: {name} must be a positive number (1e-18 to 1e18, so that "
                f"float32 holds its square), {learned} (one for all pixels){each} or "
                f"'per-pixel' (from the network), got {describe(value)}"
            )
        self.register_buffer(f"{_FIXED}{name}", torch.tensor(_fixed(value)), persistent=False)

    def positive(
        self, name: str, unconstrained: Tensor | None, minimum: int | float = MIN_SCALE
    ) -> Tensor:
        """Return the parameter: of the network's output, which is None unless it is per pixel.

        It is softplus(unconstrained) + minimum, exp(``log_<name>``) if learned, or a fixed number.
        """
        if unconstrained is not None:
            return positive_scale(unconstrained, minimum)
        if isinstance(getattr(self, name), str):
            return getattr(self, f"log_{name}").exp()
        return getattr(self, f"{_FIXED}{name}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WithPositiveParameter:
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            if name.startswith(_FIXED) and buffer is not None:
                # float32's 0.1 converted to float64 is not float64's 0.1.
                value = _fixed(getattr(self, name.removeprefix(_FIXED)))
                self._buffers[name] = torch.full_like(buffer, value)
        return self


_FIXED = "_fixed_"


def as_python_number(value: Any) -> Any:
    """Convert a NumPy scalar to a Python number, which configurations can hold."""
    if not isinstance(value, Real) or isinstance(value, (int, float)):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def is_word(value: object, *words: str) -> bool:
    """Return whether a setting is one of some words; an array would be compared by its entries."""
    return isinstance(value, str) and value in words


def outputs_per_element(value: int | float | str) -> int:
    """Return the number of outputs per element: 2 if the network gives the positive parameter."""
    return 2 if is_word(value, "per-pixel") else 1


def _fixed(value: int | float | str) -> float:
    return 1.0 if isinstance(value, str) else float(value)
