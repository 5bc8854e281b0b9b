"""When data of one shape can stand for data of another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

CHANNELS = (1, 3, 4)
"""How many channels an image has: grey, colour, colour with transparency."""


def same_event(shape: Sequence[int], expected: Sequence[int]) -> bool:
    """Tell whether a datum has the expected shape, with its entries in that order.

    Or one of the two is the flat form of the other, or one is a grey image (H, W) and the other
    that image with its one channel, (1, H, W). As many entries are not enough: (8, 6, 3) in the
    order of (3, 8, 6) would scramble the pixels.
    """
    if tuple(shape) == tuple(expected):
        return True
    if math.prod(shape) == math.prod(expected) and 1 in (len(shape), len(expected)):
        return True
    short, long = sorted((tuple(shape), tuple(expected)), key=len)
    return len(short) == 2 and long == (1, *short)


def has_channels_last(shape: Sequence[int]) -> bool:
    """Tell whether a datum is an image (H, W, C) by its sizes: 1, 3 or 4 come last alone."""
    return len(shape) == 3 and shape[-1] in CHANNELS and shape[0] not in CHANNELS


def is_ambiguous(shape: Sequence[int]) -> bool:
    """Tell whether a datum may be an image (C, H, W) as well as one of (H, W, C).

    What begins with 1 is taken for one channel: no image is one pixel high.
    """
    return len(shape) == 3 and shape[-1] in CHANNELS and shape[0] in CHANNELS[1:]


def as_image(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape (C, H, W) of data that a network of images is to see.

    Raises ValueError, which says what to write, where the sizes do not tell.
    """
    shape = tuple(shape)
    if has_channels_last(shape):
        raise ValueError(
            f"the data have the shape {shape}, with channels last, and networks of images have "
            f"them first; give x.permute(0, 3, 1, 2), or load with channels='last'"
        )
    if len(shape) != 2:
        return shape
    if set(shape) & set(CHANNELS):
        raise ValueError(
            f"data of shape {shape} may be grey images or have channels beside flattened pixels; "
            f"write event_shape: {[1, *shape]} for grey ones, or give x as (N, C, H, W)"
        )
    return (1, *shape)


def how_to_arrange(shape: Sequence[int], expected: Sequence[int]) -> str:
    """Say, for an error, how a batch ``x`` of data of some shape comes to have the expected one."""
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
