"""What the networks ask of their arguments and inputs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ppl_vae.errors import describe, positive_int


def positive_ints(owner: str, name: str, values: object) -> tuple[int, ...]:
    """Return a sequence of integers of 1 or more as a tuple."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(
            f"{owner}: {name} must be a sequence of integers of 1 or more, got {describe(values)}; "
            f"a single one is written ({values},)"
        )
    return tuple(positive_int(owner, name, value) for value in values)


def count(owner: str, name: str, value: object) -> int:
    """Return ``value`` if it is an integer of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an integer of 0 or more, got {describe(value)}")
    if value < 0:
        raise ValueError(f"{owner}: {name} must be 0 or more, got {value}")
    return value


def image(owner: str, image_shape: object) -> tuple[int, int, int]:
    """Return the shape of one image as a tuple."""
    shape = positive_ints(owner, "image_shape", image_shape)
    if len(shape) != 3:
        raise ValueError(
            f"{owner}: image_shape must be (channels, height, width), got {shape}; "
            f"grey images have one channel, (1, 28, 28)"
        )
    return shape


def features_of(owner: str, features: tuple[Tensor, ...], in_features: int) -> None:
    """Raise an error if the last dimensions do not add up to ``in_features``."""
    came = sum(t.shape[-1] if t.dim() else 1 for t in features)
    if came != in_features or not all(t.dim() for t in features):
        shapes = " and ".join(str(tuple(t.shape)) for t in features)
        raise ValueError(
            f"{owner}: expected {in_features} features on the last dimension, got an input of "
            f"shape {shapes}; give {owner}(in_features={came}, ...) "
            f"or pass data of the width it was built for"
        )
