"""Checks of networks' arguments and inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import Tensor, nn

from ppl_vae.errors import describe, sizes
from ppl_vae.process_state import restored


def check_activation(owner: str, activation: Callable[[], nn.Module]) -> None:
    """Raise TypeError unless ``activation`` is a class of modules or a function that makes one."""
    fix = ""
    if isinstance(activation, nn.Module):
        fix = f"; give the class, nn.{type(activation).__name__}, or a function that returns it"
    elif callable(activation):
        if _makes_a_module(activation):
            return
        name = getattr(activation, "__name__", "").lower()
        same = [n for n in nn.modules.activation.__all__ if n.lower() == name.replace("_", "")]
        if isinstance(activation, type) and issubclass(activation, nn.Module):
            fix = f"; it needs arguments, which lambda: {activation.__name__}(...) gives"
        elif same:
            fix = f"; give the class, torch.nn.{same[0]}"
    raise TypeError(
        f"{owner}: activation must be a class of modules such as nn.ELU, or a function that "
        f"returns a module, got {describe(activation)}{fix}"
    )


def _makes_a_module(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):  # it needs arguments, or is built in, as torch.tanh is
        return False
    with restored():
        return isinstance(function(), nn.Module)


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
