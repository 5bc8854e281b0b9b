"""Checks of the labels that predictions are compared with."""

from __future__ import annotations

from collections.abc import Sized

from jaxtyping import Bool
from torch import Tensor

from ppl_vae.errors import describe
from ppl_vae.labels import INTEGER_DTYPES


def check_labels(
    owner: str,
    labels: object,
    beside: Sized | int,
    *,
    below: int | None = None,
    lowest: int = 0,
    name: str = "labels",
) -> None:
    """Raise an error unless ``labels`` has an integer for each row of ``beside``, or for so many.

    Integers are from ``lowest``, -1 if some may be unknown, to ``below - 1``, the last class.
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
            fix = f"; for one-hot labels give {name}.argmax(1)"
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
    """Return which data have a label, not -1; raise as :func:`check_labels`, or if none has."""
    check_labels(owner, labels, beside, below=below, lowest=-1, name=name)
    known = labels >= 0
    if not known.any():
        raise ValueError(f"{owner}: {name} must have a label, got -1 for all {len(labels)} data")
    return known
