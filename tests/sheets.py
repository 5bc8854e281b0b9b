"""Images of every kind, and their pixels on a sheet."""

import math

import numpy as np
import pytest

# Flat images and others: name -> (event shape, shape=, pixels of a tile).
KINDS = {
    "8x8, flat": ((64,), None, (8, 8)),
    "28x28": ((28, 28), None, (28, 28)),
    "28x28, one channel": ((1, 28, 28), None, (28, 28)),
    "RGB": ((3, 16, 16), None, (16, 16, 3)),
    "RGB, flat": ((3 * 8 * 6,), (3, 8, 6), (8, 6, 3)),
    "oblong, flat": ((50,), (5, 10), (5, 10)),
}
KIND = pytest.mark.parametrize(("event", "shape", "tile"), KINDS.values(), ids=KINDS.keys())


def pixels(ax):
    return np.asarray(ax.images[0].get_array())


def tile_at(ax, row, column, tile, gap=1):
    """Return the pixels of one image of a sheet."""
    top, left = (gap + i * (n + gap) for i, n in zip((row, column), tile, strict=False))
    return pixels(ax)[top : top + tile[0], left : left + tile[1]]


def as_seen(image, event, shape):
    """Return an image as it is drawn: (H, W), or (H, W, 3)."""
    image = image.reshape(shape or (event if len(event) > 1 else (math.isqrt(event[0]),) * 2))
    if image.ndim == 2:
        return image
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)


def labels_of(axis):
    return [text.get_text() for text in axis.get_ticklabels()]
