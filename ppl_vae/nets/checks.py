"""What the networks ask of their arguments and inputs."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ppl_vae.errors import describe, sizes


def check_activation(owner: str, activation: Callable[[], nn.Module]) -> None:
    """Raise TypeError unless a module is made by calling ``activation()``, where it is a class."""
    if isinstance(activation, nn.Module):
        fix = f"; give the class, nn.{type(activation).__name__}, or a function that makes it"
    elif isinstance(activation, type) and not issubclass(activation, nn.Module):
        fix = ""
    elif callable(activation):
        return
    else:
        fix = ""
    raise TypeError(
        f"{owner}: activation must make a module when it is called, as the class nn.ELU does, got "
        f"{describe(activation)}{fix}"
    )


def image(owner: str, image_shape: object) -> tuple[int, int, int]:
    """Return the shape of one image as a tuple."""
    shape = sizes(owner, "image_shape", image_shape)
    if len(shape) != 3:
        raise ValueError(
            f"{owner}: image_shape must be (channels, height, width), got {shape}; "
            f"grey images have one channel, (1, 28, 28)"
        )
    return shape


def features_of(owner: str, features: tuple[Tensor, ...], in_features: int) -> None:
    """Raise an error if the last dimensions do not add up to ``in_features``."""
    for t in features:
        if not isinstance(t, Tensor):
            raise TypeError(f"{owner}: an input must be a tensor, got {describe(t)}")
    came = sum(t.shape[-1] if t.dim() else 1 for t in features)
    if came != in_features or not all(t.dim() for t in features):
        shapes = " and ".join(str(tuple(t.shape)) for t in features)
        raise ValueError(
            f"{owner}: expected {in_features} features on the last dimension, got an input of "
            f"shape {shapes}; give {owner}(in_features={came}, ...) "
            f"or pass data of the width it was built for"
        )
