"""Which shapes of a datum are equivalent, and how to convert between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

CHANNELS = (1, 3, 4)
"""Numbers of channels: grey, colour, colour with transparency."""


def same_event(shape: Sequence[int], expected: Sequence[int]) -> bool:
    """Return whether a datum can be reshaped to the expected shape with its entries in order.

    That is: the shapes are equal, one is the other flattened, or they are a grey image (H, W) and
    (1, H, W). An equal number of entries is not enough: (8, 6, 3) reshaped to (3, 8, 6) would
    scramble the pixels.
    """
    if tuple(shape) == tuple(expected):
        return True
    if math.prod(shape) == math.prod(expected) and 1 in (len(shape), len(expected)):
        return True
    short, long = sorted((tuple(shape), tuple(expected)), key=len)
    return len(short) == 2 and long == (1, *short)


def has_channels_last(shape: Sequence[int]) -> bool:
    """Return whether only the last size of an image is 1, 3 or 4, as in (H, W, C)."""
    return len(shape) == 3 and shape[-1] in CHANNELS and shape[0] not in CHANNELS


def is_ambiguous(shape: Sequence[int]) -> bool:
    """Return whether an image may be (C, H, W) as well as (H, W, C).

    A first size of 1 is one channel: no image is one pixel high.
    """
    return len(shape) == 3 and shape[-1] in CHANNELS and shape[0] in CHANNELS[1:]


def as_image(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape (C, H, W) that an image network expects.

    Raises ValueError if the sizes do not determine it.
    """
    shape = tuple(shape)
    if has_channels_last(shape):
        raise ValueError(
            f"image networks need channels first, got data of shape {shape}; give x.permute(0, 3, "
            f"1, 2), or load with channels='last'"
        )
    if len(shape) != 2:
        return shape
    if set(shape) & set(CHANNELS):
        raise ValueError(
            f"data of shape {shape} may be grey images, or channels of flattened pixels; write "
            f"event_shape: {[1, *shape]} for grey images, or give x as (N, C, H, W)"
        )
    return (1, *shape)


def how_to_arrange(shape: Sequence[int], expected: Sequence[int]) -> str:
    """Return the fix, for an error: code that gives a batch ``x`` the expected shape."""
    if sorted(shape) == sorted(expected) and len(shape) <= 4:
        for order in permutations(range(len(shape))):
            if tuple(shape[i] for i in order) == tuple(expected):
                return f"give x.permute(0, {', '.join(str(i + 1) for i in order)})"
    if (1, *shape) == tuple(expected):
        return "give x.unsqueeze(1)"
    if tuple(shape) == (1, *expected):
        return "give x.squeeze(1)"
    if len(expected) == 1 and math.prod(shape) == expected[0]:
        return "give x.flatten(1)"
    if len(shape) == 1 and shape[0] == math.prod(expected):
        return f"give x.unflatten(1, {tuple(expected)})"
    return "reshape x or give networks of its width"
