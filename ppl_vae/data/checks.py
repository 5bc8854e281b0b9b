"""What the values and labels of a dataset must be."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.errors import describe


def check_values(values: Tensor, scale: int | float) -> None:
    """Raise TypeError or ValueError unless ``values / scale`` can be given to a model."""
    if values.dtype != torch.uint8 and not values.is_floating_point():
        raise TypeError(
            f"values must be uint8 or floating, got {describe(values)}; convert them, and give the "
            f"scale that means 1.0"
        )
    if values.ndim < 2 or not values.numel():
        raise ValueError(
            f"values must have shape (N, *event) and not be empty, got {describe(values)}"
        )
    if not scale > 0:
        raise ValueError(f"scale must be above 0, got {scale}; it is the value that means 1.0")
    if values.dtype == torch.uint8:
        if values.max() > scale:
            raise ValueError(
                f"uint8 values must be at most scale={scale:g}, got {values.max()}; give the value "
                f"that means 1.0 (255 for 8-bit images)"
            )
    elif not values.isfinite().all():
        where = tuple(values.isfinite().logical_not().nonzero()[0].tolist())
        raise ValueError(
            f"values must be finite, got {values[where]} at index {where}; remove or fill them"
        )


def checked_labels(labels: Tensor, count: int) -> Tensor:
    """Return ``labels`` as int64; raise TypeError or ValueError unless ``count`` classes."""
    fix = "give class numbers 0, 1, ... as int64"
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels must be integers, got {describe(labels)}; {fix}")
    if labels.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), got {describe(labels)}; {fix}")
    if labels.min() < 0:
        raise ValueError(
            f"labels must be 0 or more, got {int(labels.min())}; {fix}, and choose the items whose "
            f"label is seen with labelled_subset"
        )
    return labels.to(torch.int64)
