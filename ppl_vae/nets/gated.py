"""Fully connected networks of gated layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ppl_vae.constructor import Constructed
from ppl_vae.errors import positive_int, sizes
from ppl_vae.nets.checks import check_features
from ppl_vae.nets.multiple_inputs import apply_to_joined


class GatedMLP(Constructed):
    """A multilayer perceptron of gated layers, ``(..., in_features) -> (..., out_features)``.

    Each hidden layer is h = (A x + a) ⊙ sigmoid(B x + b); the output is linear. Weights are drawn
    from N(0, 2 / fan_in) (He et al. 2015, arXiv 1502.01852), as in the source's experiments.

    Source: Tomczak & Welling 2018 (arXiv 1705.07120), section 4; Dauphin et al. 2017 (arXiv
    1612.08083), equation 1.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        hidden: widths of the gated layers; ``()`` gives an affine map.

    Example:
        >>> GatedMLP(784, 2 * 40)(torch.zeros(5, 100, 784)).shape
        torch.Size([5, 100, 80])
    """

    def __init__(
        self, in_features: int, out_features: int, *, hidden: Sequence[int] = (300, 300)
    ) -> None:
        super().__init__()
        self.in_features = positive_int("GatedMLP", "in_features", in_features)
        self.out_features = positive_int("GatedMLP", "out_features", out_features)
        self.hidden = sizes("GatedMLP", "hidden", hidden)
        layers: list[nn.Module] = []
        width_in = self.in_features
        for width in self.hidden:
            # A and B in one matrix product, whose halves nn.GLU multiplies.
            layers += [_linear(width_in, 2 * width), nn.GLU(dim=-1)]
            width_in = width
        self.layers = nn.Sequential(*layers, _linear(width_in, self.out_features))

    def forward(self, *features: Tensor) -> Tensor:
        """Return ``(..., out_features)`` of the inputs, broadcast and concatenated."""
        check_features("GatedMLP", features, self.in_features)
        return apply_to_joined(self.layers, features)


def _linear(width_in: int, width_out: int) -> nn.Linear:
    layer = nn.Linear(width_in, width_out)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer
