"""The network of an entry that decides whether it is missing itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ppl_vae.constructor import Constructed
from ppl_vae.errors import positive_int


class SelfMasking(Constructed):
    """a_d x_d + b_d for each entry: the logit that x_d is observed depends on x_d alone.

    ``(..., features) -> (..., features)``, with a and b learned, initially 0.

    Source: Ipsen et al. 2021 (arXiv 2006.12871), section 4, "self-masking".

    Args:
        features: D.

    Example:
        >>> SelfMasking(3)(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = positive_int("SelfMasking", "features", features)
        self.slope = nn.Parameter(torch.zeros(self.features))
        self.bias = nn.Parameter(torch.zeros(self.features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits; raise ValueError unless x has an entry for each slope."""
        if x.shape[-1:] != (self.features,):
            raise ValueError(
                f"SelfMasking: expected an input of shape (..., {self.features}), an entry for "
                f"each slope, got {tuple(x.shape)}; give the number of entries as features"
            )
        return self.slope * x + self.bias
