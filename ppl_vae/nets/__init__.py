"""Networks: ``(..., features_in) -> (..., features_out)``, any number of leading dimensions.

For images the features are ``(channels, height, width)``; `Arranged` lets a network see flat data
in such a shape. ``torch.nn.Flatten(-3)`` and ``torch.nn.Unflatten(-1, (1, 28, 28))`` keep leading
dimensions, but a pair with networks of ``torch.nn`` itself is not saved.
"""

from ppl_vae.nets.adapters import Arranged, KeepLeading, Log1p
from ppl_vae.nets.conv import ConvDecoder, ConvEncoder, ResidualBlock
from ppl_vae.nets.gated import GatedMLP
from ppl_vae.nets.mlp import MLP
from ppl_vae.nets.self_masking import SelfMasking

__all__ = [
    "MLP",
    "Arranged",
    "ConvDecoder",
    "ConvEncoder",
    "GatedMLP",
    "KeepLeading",
    "Log1p",
    "ResidualBlock",
    "SelfMasking",
]
