"""Convolutional networks of images, with or without residual blocks.

There are no normalisation layers. Batch normalisation makes q(z | x) of one datum depend on the
rest of its batch, including particles and enumerated values, so that log q(z | x) is not the
density of what was sampled. Group normalisation does not, but is not needed: the initialisation
keeps outputs of order one at any depth (:mod:`ppl_vae.nets.initialisation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from ppl_vae.conditional import concatenate
from ppl_vae.constructor import Constructed
from ppl_vae.errors import integer, positive_int, sizes
from ppl_vae.nets.adapters import KeepLeading
from ppl_vae.nets.checks import check_activation, check_features, checked_image_shape
from ppl_vae.nets.initialisation import gain_after, scaled
from ppl_vae.nets.multiple_inputs import apply_to_joined


class ResidualBlock(Constructed):
    """x + conv(a(conv(a(x)))), with 3×3 convolutions: ``(..., C, H, W) -> (..., C, H, W)``.

    The last convolution is initialised small, so that a block is near the identity and a stack of
    any depth keeps the scale of its input (Zhang et al. 2019, arXiv 1901.09321, section 3).

    Source: He et al. 2016 (arXiv 1603.05027), figure 4(e), without its normalisation.

    Args:
        channels: number of channels C.
        activation: class or factory of the activation a.
    """

    def __init__(self, channels: int, *, activation: Callable[[], nn.Module] = nn.ELU) -> None:
        super().__init__()
        self.channels = positive_int("ResidualBlock", "channels", channels)
        check_activation(type(self).__name__, activation)
        self.activation = activation
        gain = gain_after(activation)
        first = activation()
        if getattr(first, "inplace", False):
            first.inplace = False  # type: ignore[assignment]  # x is added to the branch
        branch = nn.Sequential(
            first,
            scaled(nn.Conv2d(self.channels, self.channels, 3, padding=1), gain),
            activation(),
            scaled(nn.Conv2d(self.channels, self.channels, 3, padding=1), 0.1 * gain),
        )
        self.branch = KeepLeading(branch, event_dim=3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, of x's shape."""
        if x.dim() < 3 or x.shape[-3] != self.channels:
            expected = f"images (..., {self.channels}, height, width)"
            raise ValueError(f"ResidualBlock: expected {expected}, got shape {tuple(x.shape)}")
        return x + self.branch(x)


class ConvEncoder(Constructed):
    """A convolutional network ``(..., C, H, W) -> (..., out_features)``.

    One 3×3 convolution of stride 2 per entry of ``channels``, each followed by ``residual_blocks``
    :class:`ResidualBlock`; then a dense head. A ResNet is ``residual_blocks=2``.

    Contexts, such as a one-hot label, join the flattened features before the head. The convolutions
    run on the image's leading dimensions alone; those of the contexts are broadcast after the
    head's first layer, so that enumerating a label costs little.

    Args:
        image_shape: ``(C, H, W)``, sides of any size. Each stride rounds up (28 → 14 → 7 → 4); n
            entries of ``channels`` need sides of 2ⁿ⁻¹ + 1 or more.
        out_features: width of the output, which is linear.
        channels: width of each stride-2 convolution.
        hidden: widths of the head's hidden layers. With ``()`` a context enters linearly.
        residual_blocks: number of blocks after each stride-2 convolution.
        context_features: width of all contexts together; 0 for none.
        activation: class or factory of the activations.

    Raises:
        ValueError: if the image is too small for the number of strides.

    Example:
        >>> ConvEncoder((1, 28, 28), 2 * 10)(torch.zeros(5, 100, 1, 28, 28)).shape
        torch.Size([5, 100, 20])
        >>> encoder = ConvEncoder((1, 28, 28), 2 * 10, context_features=10)
        >>> encoder(torch.zeros(100, 1, 28, 28), torch.zeros(10, 1, 10)).shape
        torch.Size([10, 100, 20])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_features: int,
        *,
        channels: Sequence[int] = (32, 64),
        hidden: Sequence[int] = (256,),
        residual_blocks: int = 0,
        context_features: int = 0,
        activation: Callable[[], nn.Module] = nn.ELU,
    ) -> None:
        super().__init__()
        self.image_shape = checked_image_shape("ConvEncoder", image_shape)
        self.out_features = positive_int("ConvEncoder", "out_features", out_features)
        self.channels = sizes("ConvEncoder", "channels", channels)
        self.hidden = sizes("ConvEncoder", "hidden", hidden)
        self.residual_blocks = integer("ConvEncoder", "residual_blocks", residual_blocks, 0)
        self.context_features = integer("ConvEncoder", "context_features", context_features, 0)
        check_activation(type(self).__name__, activation)
        self.activation = activation
        height, width = _sizes_after_strides("ConvEncoder", self.image_shape, self.channels)[-1]
        gain = gain_after(activation)
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise((self.image_shape[0], *self.channels)):
            stride = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)
            layers += [
                scaled(stride, gain if layers else 1.0),
                *_blocks(self.residual_blocks, c_out, activation),
                activation(),
            ]
        self.convolutions = KeepLeading(nn.Sequential(*layers, nn.Flatten()), event_dim=3)
        # One affine map of (features, context), in two terms, so that features are not expanded.
        widths = (*self.hidden, self.out_features)
        flat = self.channels[-1] * height * width
        self.from_image = scaled(nn.Linear(flat, widths[0]), gain)
        self.from_context: nn.Module | None = None
        if self.context_features:
            self.from_context = scaled(nn.Linear(self.context_features, widths[0], bias=False), 1.0)
        self.head = nn.Sequential(*_dense(widths, activation, gain))

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return the output, shape ``(..., out_features)``.

        Args:
            x: images, shape ``(..., *image_shape)``.
            context: vectors ``(..., c_i)`` whose widths add up to ``context_features``; leading
                dimensions are broadcast.
        """
        if x.shape[-3:] != self.image_shape:
            raise ValueError(
                f"ConvEncoder: expected images of shape {self.image_shape}, got {tuple(x.shape)}; "
                f"change image_shape, or reshape flat data by nn.Unflatten(-1, {self.image_shape})"
            )
        width = sum(c.shape[-1] for c in context)
        if width != self.context_features:
            shapes = ", ".join(str(tuple(c.shape)) for c in context) or "none"
            raise ValueError(
                f"ConvEncoder: expected context_features={self.context_features} features in all, "
                f"got {width} in contexts of shape {shapes}; give context_features={width}"
            )
        features = self.from_image(self.convolutions(x))
        if self.from_context is not None:
            features = features + self.from_context(concatenate(*context))
        return self.head(features)


class ConvDecoder(Constructed):
    """A convolutional network ``(..., in_features) -> (..., C, H, W)``.

    The mirror image of :class:`ConvEncoder`: dense layers give the smallest image; then, per entry
    of ``channels``, ``residual_blocks`` :class:`ResidualBlock` of that width and a transposed
    convolution of stride 2 to exactly the encoder's next size. Its kernel is 4×4, a multiple of the
    stride, so that every pixel is a sum of equally many terms, without checkerboard artefacts
    (Odena et al. 2016, doi 10.23915/distill.00003).

    Initially the outputs for standard-normal inputs are of order one.

    Args:
        in_features: width of the input.
        image_shape: ``(C, H, W)`` of the output, which is linear; C is that of the likelihood's
            ``net_shape``. n entries of ``channels`` need sides of 2ⁿ⁻¹ + 1 or more.
        channels: widths, from the smallest image on.
        hidden: widths of the dense hidden layers.
        residual_blocks: number of blocks before each transposed convolution.
        activation: class or factory of the activations.

    Raises:
        ValueError: if the image is too small for the number of strides.

    Example:
        >>> ConvDecoder(10, (1, 28, 28))(torch.zeros(5, 100, 10)).shape
        torch.Size([5, 100, 1, 28, 28])
    """

    def __init__(
        self,
        in_features: int,
        image_shape: Sequence[int],
        *,
        channels: Sequence[int] = (64, 32),
        hidden: Sequence[int] = (256,),
        residual_blocks: int = 0,
        activation: Callable[[], nn.Module] = nn.ELU,
    ) -> None:
        super().__init__()
        self.in_features = positive_int("ConvDecoder", "in_features", in_features)
        self.image_shape = checked_image_shape("ConvDecoder", image_shape)
        self.channels = sizes("ConvDecoder", "channels", channels)
        self.hidden = sizes("ConvDecoder", "hidden", hidden)
        self.residual_blocks = integer("ConvDecoder", "residual_blocks", residual_blocks, 0)
        check_activation(type(self).__name__, activation)
        self.activation = activation
        smallest, *larger = reversed(
            _sizes_after_strides("ConvDecoder", self.image_shape, self.channels)
        )
        gain = gain_after(activation)
        first = (self.channels[0], *smallest)
        widths = (*self.hidden, first[0] * first[1] * first[2])
        self.dense = nn.Sequential(
            scaled(nn.Linear(self.in_features, widths[0]), 1.0),
            *_dense(widths, activation, gain),
            nn.Unflatten(-1, first),
        )
        layers: list[nn.Module] = []
        widths = (*self.channels, self.image_shape[0])
        for (c_in, c_out), size in zip(pairwise(widths), larger, strict=True):
            layers += [
                *_blocks(self.residual_blocks, c_in, activation),
                activation(),
                scaled(_upsampling(c_in, c_out, size), gain),
            ]
        self.convolutions = KeepLeading(nn.Sequential(*layers), event_dim=3)

    def forward(self, *features: Tensor) -> Tensor:
        """Return images ``(..., *image_shape)`` of the inputs, broadcast and concatenated."""
        check_features("ConvDecoder", features, self.in_features)
        return self.convolutions(apply_to_joined(self.dense, features))


def _blocks(number: int, channels: int, activation: Callable[[], nn.Module]) -> list[ResidualBlock]:
    return [ResidualBlock(channels, activation=activation) for _ in range(number)]


def _upsampling(c_in: int, c_out: int, size: tuple[int, int]) -> nn.ConvTranspose2d:
    """Return a layer from images of half the size, rounded up, to images of ``size``."""
    # n -> 2 (n - 1) - 2 padding + 4 + output_padding, which is 2 n or 2 n - 1
    odd_height, odd_width = (side % 2 for side in size)
    return nn.ConvTranspose2d(
        c_in,
        c_out,
        kernel_size=4,
        stride=2,
        padding=(1 + odd_height, 1 + odd_width),
        output_padding=(odd_height, odd_width),
    )


def _dense(
    widths: Sequence[int], activation: Callable[[], nn.Module], gain: float
) -> list[nn.Module]:
    """Return the layers after a first one of width ``widths[0]``."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [activation(), scaled(nn.Linear(width_in, width_out), gain)]
    return layers


def _sizes_after_strides(
    owner: str, image_shape: tuple[int, int, int], channels: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Return (height, width) of the image and after each stride of 2, rounded up."""
    _, height, width = image_shape
    most = (min(height, width) - 1).bit_length()  # strides until the shorter side is 1
    if not most:
        got = f"got {image_shape}; use nets.MLP for data other than images"
        raise ValueError(f"{owner}: image_shape must have sides of 2 or more, {got}")
    if not 1 <= len(channels) <= most:
        raise ValueError(
            f"{owner}: each entry of channels is a stride of 2, and images of shape {image_shape} "
            f"take 1 to {most} of them, got {len(channels)}: {channels}; {len(channels)} need "
            f"sides of {2 ** max(len(channels) - 1, 0) + 1} or more"
        )
    sizes = [(height, width)]
    for _ in channels:
        height, width = (height + 1) // 2, (width + 1) // 2
        sizes.append((height, width))
    return sizes
