"""Images of one white shape on black, drawn from known factors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ppl_vae.data.dataset import Dataset
from ppl_vae.data.factors import Factors
from ppl_vae.errors import integer, positive_int, quoted, seed_of, sequence

Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]

RADIUS = 0.35
"""Of the circle around the largest sprite, where the image is from -1 to 1."""
MARGIN = 0.6
"""Largest coordinate of a sprite's centre: all sprites lie within the image."""
SMALLEST = 0.5
"""The smallest scale; the largest is 1."""
_CHUNK = 2**19  # pixels that are drawn at once


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) <= math.sqrt(0.5)


def _ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u**2 + (2 * v) ** 2 <= 1


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = 1.43 * u, 1.43 * v  # its largest radius is 1.425
    square = u * u
    level = square + v * v - 1
    return level * level * level <= square * v * v * v


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (v >= -0.8) & (3 * np.abs(u) <= 1 - v)


SHAPES: dict[str, Inside] = {
    "square": _square,
    "ellipse": _ellipse,
    "heart": _heart,
    "triangle": _triangle,
}
"""Whether a point is inside each shape, which lies in the unit circle around 0, v upwards."""


def sprites(
    number: int | None = None,
    *,
    size: int = 64,
    shapes: Sequence[str] = ("square", "ellipse", "heart"),
    scales: int = 6,
    orientations: int = 40,
    positions: int = 32,
    supersampling: int = 1,
    seed: int = 0,
) -> Dataset:
    """Draw images of one white shape on black, whose factors are known, as those of dSprites.

    The factors are shape, scale, orientation, and the position x and y, all combinations of which
    are the grid. A pixel is 1 if its centre is inside the shape. Angles are 2πk / ``orientations``,
    anticlockwise; scales go from 0.5 to 1 and positions, x to the right and y down, over the whole
    image, less a margin, in equal steps. The orientation of a square repeats after a quarter of a
    turn, that of an ellipse after half of one.

    The images are drawn here: they are not those of the dSprites file.

    Args:
        number: of images, at random from the grid, none twice; by default the whole grid in order,
            the last factor fastest: 737,280 images, 3 GB at 64x64 pixels.
        size: height and width in pixels, 16 or more.
        shapes: some of ``"square"``, ``"ellipse"``, ``"heart"`` and ``"triangle"``; each image has
            one, which is its label, too.
        scales, orientations, positions: the number of values of these factors; x and y have
            ``positions`` each. A factor of one value is not among the factors.
        supersampling: 1 for binary images; k for grey levels 0, ..., k², the number of points of a
            k x k grid in the pixel that are inside, at most 15.
        seed: of the random choice.

    Returns:
        A `Dataset` of shape ``(N, 1, size, size)`` with labels, and with `Factors` as its
        ``factors``.

    Source: of the factors, Matthey et al. 2017 (github.com/google-deepmind/dsprites-dataset).

    Example:
        >>> images = sprites(100, size=32)
        >>> images.event_shape
        (1, 32, 32)
        >>> images.factors
        Factors(100 items; shape: 3 categories, scale: 6, orientation: 40, x: 32, y: 32)
    """
    owner = "sprites"
    size = integer(owner, "size", size, 16)
    names = tuple(sequence(owner, "shapes", shapes, "shapes"))
    known = ", ".join(SHAPES)
    if not names or len(set(names)) < len(names) or not set(names) <= set(SHAPES):
        raise ValueError(f"{owner}: shapes must be among {known}, none twice, got {quoted(names)}")
    supersampling = integer(owner, "supersampling", supersampling, 1)
    if supersampling > 15:
        raise ValueError(f"{owner}: supersampling must be at most 15, got {supersampling}")
    counts = (
        len(names),
        positive_int(owner, "scales", scales),
        positive_int(owner, "orientations", orientations),
        positions := positive_int(owner, "positions", positions),
        positions,
    )
    total = math.prod(counts)
    seed = seed_of(owner, seed)
    index = np.arange(total)
    if number is not None:
        number = positive_int(owner, "number", number)
        if number > total:
            raise ValueError(
                f"{owner}: number must be at most {total:,}, that of all combinations of factors, "
                f"got {number:,}; give more scales, orientations or positions"
            )
        generator = torch.Generator().manual_seed(seed)
        index = torch.randperm(total, generator=generator)[:number].numpy()
    of_each = np.stack(np.unravel_index(index, counts), 1)
    images = np.zeros((len(index), size, size), np.uint8)
    step = max(1, _CHUNK // (_window(size) * supersampling) ** 2)
    for number_of_shape, name in enumerate(names):
        (rows,) = np.nonzero(of_each[:, 0] == number_of_shape)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            _draw(images, some, SHAPES[name], of_each[some], counts, supersampling)
    varying = [k for k, count in enumerate(counts) if count > 1]
    factors = None
    if varying:
        of_factors = ("shape", "scale", "orientation", "x", "y")
        factors = Factors(
            of_each[:, varying],
            [of_factors[k] for k in varying],
            sizes=[counts[k] for k in varying],
            categorical=["shape"] if 0 in varying else [],
        )
    return Dataset(
        torch.from_numpy(images[:, None]),
        of_each[:, 0].copy(),
        "sprites",
        scale=supersampling**2,
        classes=names,
        factors=factors,
    )


def _window(size: int) -> int:
    """Return the width in pixels of a window that holds the largest sprite."""
    return math.floor(RADIUS * size) + 2


def _draw(
    images: np.ndarray,
    rows: np.ndarray,
    inside: Inside,
    factors: np.ndarray,
    counts: tuple[int, ...],
    supersampling: int,
) -> None:
    """Draw sprites of one shape into images: how many points of each pixel are inside."""
    _, scale, orientation, *places = factors.T
    radius = RADIUS * np.linspace(1, SMALLEST, counts[1])[::-1][scale][:, None]
    angle = 2 * math.pi * orientation / counts[2]
    centres = np.linspace(-MARGIN, MARGIN, counts[3]) if counts[3] > 1 else np.zeros(1)
    size = images.shape[-1]
    width = _window(size)
    pixels, offsets = [], []
    for place in places:
        centre = centres[place][:, None]
        first = np.floor((1 + centre - RADIUS) * size / 2).astype(int).clip(0, size - width)
        pixels.append(first + np.arange(width))
        points = first * supersampling + np.arange(width * supersampling)
        offsets.append(((2 * points + 1) / (size * supersampling) - 1 - centre) / radius)
    # Columns go right and rows down; u and v turn with the sprite, v upwards.
    right, up = offsets[0], -offsets[1]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    u = (cos * right)[:, None, :] + (sin * up)[:, :, None]
    v = (cos * up)[:, :, None] - (sin * right)[:, None, :]
    found = inside(u, v).reshape(len(rows), width, supersampling, width, supersampling)
    columns, lines = pixels[0][:, None, :], pixels[1][:, :, None]
    images[rows[:, None, None], lines, columns] = found.sum((2, 4), dtype=np.uint8)
