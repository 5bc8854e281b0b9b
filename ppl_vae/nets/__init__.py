"""Networks: ``(..., features_in) -> (..., features_out)``, any number of leading dimensions.

For images the features are ``(channels, height, width)``; `AsImage` lets a network of images see
flat data. ``torch.nn.Flatten(-3)`` and ``torch.nn.Unflatten(-1, (1, 28, 28))`` keep the leading
dimensions, but a pair with networks of ``torch.nn`` itself is not saved.
"""

from ppl_vae.nets.adapters import AsImage, KeepLeading, Log1p
from ppl_vae.nets.conv import ConvDecoder, ConvEncoder, ResidualBlock
from ppl_vae.nets.gated import GatedMLP
from ppl_vae.nets.mlp import MLP
from ppl_vae.nets.self_masking import SelfMasking

__all__ = [
    "MLP",
    "AsImage",
    "ConvDecoder",
    "ConvEncoder",
    "GatedMLP",
    "KeepLeading",
    "Log1p",
    "ResidualBlock",
    "SelfMasking",
]
