"""What labels may be."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.errors import describe


def check_labels(owner: str, labels: Tensor, beside: Tensor, *, below: int | None = None) -> None:
    """Raise an error unless ``labels`` is an integer from 0 for each row of ``beside``.

    Args:
        owner: the function that asks, for messages.
        labels: the labels.
        beside: what they label, shape ``(N, ...)``, N at least 1.
        below: the number of classes.

    Raises:
        TypeError: if they are no tensor of integers.
        ValueError: if their number or a value does not suit, or there are none.
    """
    expected = f"labels of shape ({len(beside)},), integers from 0"
    if below is not None:
        expected += f" to {below - 1}"
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{owner}: expected {expected}, got {describe(labels)}")
    if len(beside) == 0:
        raise ValueError(f"{owner}: there must be at least one datum, got none")
    if labels.shape != (len(beside),):
        raise ValueError(f"{owner}: expected {expected}, got {describe(labels)}")
    if labels.min() < 0 or (below is not None and labels.max() >= below):
        raise ValueError(
            f"{owner}: expected {expected}, got values from {labels.min()} to {labels.max()}; "
            f"leave out data without a label"
        )
