"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from ppl_vae.errors import positive_int


class MLP(nn.Module):
    """A multilayer perceptron ``(..., in_features) -> (..., out_features)``.

    Args:
        in_features: width of the input.
        out_features: width of the output, which is linear (no activation).
        hidden: widths of the hidden layers; ``()`` gives an affine map.
        activation: makes the activation after each hidden layer.

    Example:
        >>> MLP(784, 2 * 10)(torch.zeros(5, 100, 784)).shape
        torch.Size([5, 100, 20])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden: Sequence[int] = (300, 300),
        activation: Callable[[], nn.Module] = nn.ELU,
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden, out_features]
        names = ["in_features", *("hidden" for _ in hidden), "out_features"]
        for name, width in zip(names, widths, strict=True):
            positive_int("MLP", name, width)
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), activation()]
        self.layers = nn.Sequential(*layers[:-1])
        self.in_features = in_features
        self.out_features = out_features

    def forward(self, features: Tensor) -> Tensor:
        """Return the output, shape ``(..., out_features)``."""
        if features.shape[-1] != self.in_features:
            raise ValueError(
                f"MLP: expected {self.in_features} features on the last dimension, got an input of "
                f"shape {tuple(features.shape)}; give MLP(in_features={features.shape[-1]}, ...) "
                f"or pass data of the width it was built for"
            )
        return self.layers(features)
