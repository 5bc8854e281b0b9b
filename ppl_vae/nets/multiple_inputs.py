"""Networks of several inputs, without concatenating them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.conditional import concatenate


def apply_to_joined(layers: nn.Sequential, inputs: tuple[Tensor, ...]) -> Tensor:
    """Return ``layers`` of the inputs ``(..., d_i)``, broadcast and concatenated.

    The first layer is linear, and W x + b = Σ_i W_i x_i + b: each input is multiplied by its part
    of the weight before leading dimensions are broadcast, so that x is multiplied once, not once
    for each enumerated label. A first layer with hooks, such as those of spectral normalisation, is
    called as it is.
    """
    first, *rest = layers
    if len(inputs) == 1 or _has_hooks(layers) or _has_hooks(first):
        return layers(concatenate(*inputs))
    assert isinstance(first, nn.Linear)
    # Contiguous: products with slices would give gradients of another memory layout.
    parts = first.weight.split([t.shape[-1] for t in inputs], dim=-1)
    weights = [part.contiguous() for part in parts]
    output = F.linear(inputs[0], weights[0], first.bias)
    for features, weight in zip(inputs[1:], weights[1:], strict=True):
        output = output + F.linear(features, weight)
    for layer in rest:
        output = layer(output)
    return output


def _has_hooks(module: nn.Module) -> bool:
    """Return whether something happens when a module is called, besides its computation."""
    return bool(
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_pre_hooks
        or module._backward_hooks
    )
