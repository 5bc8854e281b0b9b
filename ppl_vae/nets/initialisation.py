"""Initialisation that keeps a network's outputs of order one at any depth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

L = TypeVar("L", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def scaled(layer: L, gain: float) -> L:
    """Draw the weights from N(0, gain² / fan_in), set the bias to 0 and return the layer.

    For an input of mean square m the output then has variance gain² m.
    """
    if isinstance(layer, nn.ConvTranspose2d):
        # An output pixel sees one in prod(stride) of the kernel's entries.
        fan_in = layer.weight[:, 0].numel() / math.prod(layer.stride)
    else:
        fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def gain_after(activation: Callable[[], nn.Module]) -> float:
    """Return the gain 1 / sqrt(E[a(u)²]), u ~ N(0, 1), which preserves the mean square.

    √2 for ReLU (He et al. 2015, arXiv 1502.01852, equation 10); by quadrature for any other.
    """
    with torch.no_grad(), torch.device("cpu"):  # also for an activation with parameters
        u = torch.linspace(-10.0, 10.0, 2001)
        density = torch.exp(-0.5 * u.square())
        mean_square = (activation().eval()(u).square() * density).sum() / density.sum()
    return 1 / math.sqrt(mean_square.item())
