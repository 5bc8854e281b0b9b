"""Adapters of networks: of those with a single batch dimension, and of what they see."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ppl_vae.constructor import Constructed
from ppl_vae.errors import describe, positive_int, sizes


class KeepLeading(Constructed):
    """Let a network with one batch dimension take any number of leading dimensions.

    ``(..., *event) -> (..., *out)``: leading dimensions are flattened for ``net``, which maps
    ``(batch, *event)`` to ``(batch, *out)``, and restored afterwards. For torch's convolutions,
    which take four dimensions, and for networks with ``x.view(len(x), -1)``.

    A network of an image and a label is best written as ``KeepLeading(convolutions, event_dim=3)``
    and a head on the features and the label, like :class:`ppl_vae.nets.ConvEncoder`: the
    convolutions then run once, however many labels are enumerated.

    Args:
        net: any module ``(batch, *event) -> (batch, *out)``.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.

    Example:
        >>> flat = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
        >>> KeepLeading(flat, event_dim=3)(torch.zeros(5, 100, 1, 8, 8)).shape
        torch.Size([5, 100, 144])
    """

    def __init__(self, net: nn.Module, event_dim: int) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            expected = "a torch.nn.Module (batch, *event) -> (batch, *out)"
            raise TypeError(f"KeepLeading: net must be {expected}, got {describe(net)}")
        self.net = net
        self.event_dim = positive_int("KeepLeading", "event_dim", event_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output, shape ``(..., *out)``."""
        if x.dim() < self.event_dim:
            expected = f"an input of at least event_dim={self.event_dim} dimensions"
            raise ValueError(f"KeepLeading: expected {expected}, got shape {tuple(x.shape)}")
        split = x.dim() - self.event_dim
        leading, batch = x.shape[:split], math.prod(x.shape[:split])
        outputs = self.net(x.reshape(batch, *x.shape[split:]))
        if not isinstance(outputs, Tensor) or outputs.shape[:1] != (batch,):
            raise ValueError(
                f"KeepLeading: {type(self.net).__name__} must return ({batch}, *out) for an input "
                f"of shape {(batch, *x.shape[split:])}, got {describe(outputs)}; event_dim="
                f"{self.event_dim} must be the number of dimensions of one datum"
            )
        return outputs.reshape(*leading, *outputs.shape[1:])


class Arranged(Constructed):
    """Let a network see flat data in another shape: ``(..., N) -> network((..., *shape))``.

    For one part of a pair of flat data, such as a classifier of images or a recurrent encoder;
    where encoder and decoder are convolutional, give the pair images. A context is passed on as it
    is.

    Args:
        network: of data of that shape, such as :class:`ppl_vae.nets.ConvEncoder`.
        shape: such as ``(1, 28, 28)``.

    Example:
        >>> from ppl_vae.nets import ConvEncoder
        >>> Arranged(ConvEncoder((1, 28, 28), 10), (1, 28, 28))(torch.zeros(5, 784)).shape
        torch.Size([5, 10])
    """

    def __init__(self, network: nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"Arranged: network must be a torch.nn.Module, got {describe(network)}")
        self.network = network
        self.shape = sizes("Arranged", "shape", shape)
        if not self.shape:
            raise ValueError("Arranged: shape must have at least one size, got ()")

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return the network's output for the arranged data and the context, if any."""
        if not isinstance(x, Tensor):
            raise TypeError(f"Arranged: an input must be a tensor, got {describe(x)}")
        if x.shape[-1:] != (math.prod(self.shape),):
            raise ValueError(
                f"Arranged: expected flat data of {math.prod(self.shape)} values, to be arranged "
                f"as {self.shape}, got shape {tuple(x.shape)}"
            )
        return self.network(x.unflatten(-1, self.shape), *context)


class Log1p(Constructed):
    """Let a network see log(1 + x) in place of x: for encoders of counts.

    Counts range over orders of magnitude, and networks learn best from inputs of about unit size.
    This is what q(z | x) sees, and no part of any density of x. A context is passed on as it is.

    Args:
        net: any network of x, or of x and a context, apart, such as :class:`ppl_vae.nets.MLP`.

    Example:
        >>> from ppl_vae.nets import MLP
        >>> Log1p(MLP(50 + 3, 2 * 10))(torch.zeros(5, 50), torch.zeros(5, 3)).shape
        torch.Size([5, 20])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"Log1p: net must be a torch.nn.Module, got {describe(net)}")
        self.net = net

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return the network's output for log(1 + x) and the context, if any."""
        return self.net(x.log1p(), *context)
