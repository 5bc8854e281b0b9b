"""What is black and what is white in pictures of data."""

from __future__ import annotations

import numpy as np
from torch import Tensor

Range = tuple[float, float]


def pixel_range(x: Tensor) -> Range:
    """Return the values that are black and white: 0 and 1 for data from 0 to 1, NaN left out.

    For others, such as counts, the 0.5 and 99.5 % quantiles; black is 0 if nothing is below.
    """
    values = x.detach().cpu().double().numpy()
    values = values[~np.isnan(values)]
    if not values.size or (values.min() >= 0 and values.max() <= 1):
        return 0.0, 1.0
    low, high = np.quantile(values, [0.005, 0.995])
    low = 0.0 if values.min() >= 0 else float(low)
    return low, float(high) if high > low else max(low + 1.0, float(values.max()))


def as_pixels(x: Tensor, black_and_white: Range) -> Tensor:
    """Return x scaled so that black is 0 and white is 1; unchanged if they are."""
    low, high = black_and_white
    return x if (low, high) == (0, 1) else (x - low) / (high - low)
