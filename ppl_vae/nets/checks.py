"""Checks of networks' arguments and inputs."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ppl_vae.errors import describe, sizes


def check_activation(owner: str, activation: Callable[[], nn.Module]) -> None:
    """Raise TypeError unless ``activation`` is a module class or another callable."""
    fix = ""
    if isinstance(activation, nn.Module):
        fix = f"; give the class, nn.{type(activation).__name__}, or a function that returns it"
    elif isinstance(activation, type):
        if issubclass(activation, nn.Module):
            return
    elif callable(activation):
        return
    raise TypeError(
        f"{owner}: activation must be a class of modules such as nn.ELU, or a function that "
        f"returns a module, got {describe(activation)}{fix}"
    )


def checked_image_shape(owner: str, image_shape: object) -> tuple[int, int, int]:
    """Return the shape of one image as a tuple, or raise an error."""
    shape = sizes(owner, "image_shape", image_shape)
    if len(shape) != 3:
        expected, fix = "(channels, height, width)", "grey images have one channel, (1, 28, 28)"
        raise ValueError(f"{owner}: image_shape must be {expected}, got {shape}; {fix}")
    return shape


def check_features(owner: str, features: tuple[Tensor, ...], in_features: int) -> None:
    """Raise an error unless the last dimensions add up to ``in_features``."""
    for t in features:
        if not isinstance(t, Tensor):
            raise TypeError(f"{owner}: an input must be a tensor, got {describe(t)}")
    width = sum(t.shape[-1] if t.dim() else 1 for t in features)
    if width != in_features or not all(t.dim() for t in features):
        shapes = " and ".join(str(tuple(t.shape)) for t in features)
        raise ValueError(
            f"{owner}: expected {in_features} features on the last dimension, got an input of "
            f"shape {shapes}; change the data, or use {owner}(in_features={width}, ...)"
        )
