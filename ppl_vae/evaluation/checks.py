"""What data and labels may be."""

from __future__ import annotations

from collections.abc import Sized

import torch
from jaxtyping import Bool
from torch import Tensor

from ppl_vae.errors import describe
from ppl_vae.labels import INTEGER_DTYPES


def check_data(owner: str, x: Tensor, context: tuple[Tensor, ...], mask: Tensor | None) -> None:
    """Raise an error unless x holds data, and all else has an entry for each datum.

    Raises:
        TypeError: if x is no tensor.
        ValueError: if there are no data, or a further argument has another length.
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{owner}: x must be a Dataset, its batches, or a tensor (N, *event), got {describe(x)}"
        )
    if x.layout != torch.strided:
        raise TypeError(f"{owner}: x must be a dense tensor, got {describe(x)}; give x.to_dense()")
    if x.dim() == 0 or len(x) == 0:
        raise ValueError(f"{owner}: x must hold at least one datum, got shape {tuple(x.shape)}")
    check_beside(owner, len(x), context, mask)


def check_beside(
    owner: str, number: int, context: tuple[Tensor, ...], mask: Tensor | None = None
) -> None:
    """Raise ValueError unless all further arguments have an entry for each of so many data."""
    named = [("a further argument", c) for c in context]
    for name, tensor in [*named, *([] if mask is None else [("mask", mask)])]:
        if not isinstance(tensor, Tensor) or tensor.dim() == 0 or len(tensor) != number:
            raise ValueError(
                f"{owner}: x has {number} data, but {name} is {describe(tensor)}; give "
                f"a tensor with one entry for each datum"
            )


def check_labels(
    owner: str,
    labels: object,
    beside: Sized | int,
    *,
    below: int | None = None,
    lowest: int = 0,
    name: str = "labels",
) -> None:
    """Raise an error unless ``labels`` is an integer for each row of ``beside``.

    Args:
        owner: the function that asks, for messages.
        labels: the labels.
        beside: what they label, shape ``(N, ...)``, N at least 1; or N.
        below: the number of classes.
        lowest: the least that a label may be, -1 where some may be unknown.
        name: of the argument, for messages.

    Raises:
        TypeError: if they are no tensor of integers.
        ValueError: if their number or a value does not suit, or there are none.
    """
    number = beside if isinstance(beside, int) else len(beside)
    expected = f"{name} of shape ({number},), integers from 0"
    if below is not None:
        expected += f" to {below - 1}"
    if lowest < 0:
        expected += f", {lowest} where unknown"
    if not isinstance(labels, Tensor) or labels.dtype not in INTEGER_DTYPES:
        what = describe(labels) if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"{owner}: expected {expected}, got {what}; give class numbers as int64")
    if number == 0:
        raise ValueError(f"{owner}: there must be at least one datum, got none")
    if labels.shape != (number,):
        fix = ""
        if labels.shape == (number, 1):
            fix = f"; give {name}.squeeze(1)"
        elif labels.dim() == 2 and len(labels) == number:
            fix = f"; of one-hot labels give {name}.argmax(1)"
        raise ValueError(f"{owner}: expected {expected}, got {describe(labels)}{fix}")
    low, high = (int(end) for end in labels.aminmax())
    if low < lowest or (below is not None and high >= below):
        fix = f"leave out data below {lowest}" if low < lowest else "give class numbers from 0 on"
        raise ValueError(f"{owner}: expected {expected}, got values from {low} to {high}; {fix}")


def known_labels(
    owner: str,
    labels: Tensor,
    beside: Sized | int,
    *,
    below: int | None = None,
    name: str = "labels",
) -> Bool[Tensor, " data"]:
    """Return for which data there is a label, -1 being none, or raise as :func:`check_labels` does.

    Raises:
        ValueError: if no datum has one.
    """
    check_labels(owner, labels, beside, below=below, lowest=-1, name=name)
    known = labels >= 0
    if not known.any():
        raise ValueError(f"{owner}: {name} must have a label, got -1 for all {len(labels)} data")
    return known
