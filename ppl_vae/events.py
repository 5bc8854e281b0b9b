"""When data of one shape can stand for data of another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations


def same_event(shape: Sequence[int], expected: Sequence[int]) -> bool:
    """Tell whether a datum has the expected shape, or one of the two is the flat form of the other.

    As many entries are not enough: (8, 6, 3) in the order of (3, 8, 6) would scramble the pixels.
    Nor is a channel dimension added or left out.
    """
    if tuple(shape) == tuple(expected):
        return True
    return math.prod(shape) == math.prod(expected) and 1 in (len(shape), len(expected))


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
