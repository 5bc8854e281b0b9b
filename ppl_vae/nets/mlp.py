"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from ppl_vae.constructor import Constructed
from ppl_vae.errors import positive_int, sizes
from ppl_vae.nets.checks import check_activation, check_features
from ppl_vae.nets.multiple_inputs import apply_to_joined


class MLP(Constructed):
    """A multilayer perceptron ``(..., in_features) -> (..., out_features)``.

    Several inputs are broadcast and concatenated on the last dimension.

    Args:
        in_features: width of the input.
        out_features: width of the output, which is linear (no activation).
        hidden: widths of the hidden layers; ``()`` gives an affine map.
        activation: class or factory of the activation after each hidden layer.

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
        self.in_features = positive_int("MLP", "in_features", in_features)
        self.out_features = positive_int("MLP", "out_features", out_features)
        self.hidden = sizes("MLP", "hidden", hidden)
        check_activation("MLP", activation)
        self.activation = activation
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise((self.in_features, *self.hidden, self.out_features)):
            layers += [nn.Linear(width_in, width_out), activation()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, *features: Tensor) -> Tensor:
        """Return ``(..., out_features)`` of the inputs, broadcast and concatenated."""
        check_features("MLP", features, self.in_features)
        return apply_to_joined(self.layers, features)
