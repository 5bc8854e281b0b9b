"""A first layer that has several inputs."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def through(layers: nn.Sequential, inputs: tuple[Tensor, ...]) -> Tensor:
    """Return what layers make of inputs ``(..., d_i)`` as if they were concatenated.

    The first layer is ``nn.Linear``, and W x + b = Σ_i W_i x_i + b: each part of the weight meets
    its own input before the leading dimensions are broadcast, so that x is multiplied once, and not
    once for each label that is tried with it.
    """
    if len(inputs) == 1:
        return layers(inputs[0])
    first, *rest = layers
    assert isinstance(first, nn.Linear)
    # Whole, not slices: products with these would give gradients laid out the other way round.
    parts = first.weight.split([t.shape[-1] for t in inputs], dim=-1)
    weights = [part.contiguous() for part in parts]
    output = F.linear(inputs[0], weights[0], first.bias)
    for features, weight in zip(inputs[1:], weights[1:], strict=True):
        output = output + F.linear(features, weight)
    for layer in rest:
        output = layer(output)
    return output
