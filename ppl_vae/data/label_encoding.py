"""Labels encoded as class numbers, -1 for none, with the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import describe, quoted, reason
from ppl_vae.tensors import as_tensor

UNLABELLED = -1
"""The class number of an unlabelled datum."""

# Missing values, and -1, as NumPy and pandas convert them to strings.
_MISSING = ("-1", "nan", "NaN", "NaT", "None", "<NA>")


@dataclass(frozen=True)
class Words:
    """What the arguments are called in messages."""

    labels: str = "labels"
    classes: str = "classes"
    absent: str = "give '' for an unlabelled datum, or "
    fix: str = (
        "give class numbers 0, 1, ... or names, and -1, NaN, None or '' for an unlabelled datum"
    )


def encode_labels(
    labels: Tensor | np.ndarray | Sequence[Any],
    count: int,
    classes: Sequence[str] | None,
    words: Words = Words(),
) -> tuple[Tensor, tuple[str, ...] | None]:
    """Return a class number for each of ``count`` data, as int64, and the names of the classes.

    Both are described in `ppl_vae.data.Dataset`.
    """
    names = None if classes is None else _class_names(classes, words)
    y = _numbers_or_strings(labels, words)
    if y.shape != (count,):
        got = f"an array of shape {y.shape} and dtype {y.dtype}"
        got = describe(y) if isinstance(y, Tensor) else got
        raise ValueError(
            f"{words.labels} must have shape ({count},), got {got}; give one for each datum"
        )
    if isinstance(y, np.ndarray):
        y, names = _encode_strings(y, names, words)
    else:
        y = _encode_numbers(y, words)
    if names is not None and int(y.max()) >= len(names):
        raise ValueError(
            f"{words.labels} must be less than {len(names)}, the number of {words.classes}, got "
            f"{int(y.max())}; name every one of them in {words.classes}="
        )
    return y, names


def _numbers_or_strings(labels: Any, words: Words) -> Tensor | np.ndarray:
    """Return numbers as a tensor, with -1 or NaN for none, or an array of strings."""
    if isinstance(labels, Tensor):
        return labels
    if isinstance(labels, (list, tuple)):
        labels = np.array([*labels, None], dtype=object)[:-1]  # always of one dimension
    if not isinstance(labels, np.ndarray):
        got = type(labels).__name__
        raise TypeError(
            f"{words.labels} must be a tensor, an array or a list, got {got}; {words.fix}"
        )
    hidden = np.ma.getmaskarray(labels) if isinstance(labels, np.ma.MaskedArray) else None
    labels = np.asarray(labels)
    if hidden is not None and labels.dtype.kind in "OT":
        labels = np.where(hidden, None, labels)
    if labels.dtype.kind == "S":
        try:
            labels = np.char.decode(labels, "utf-8")
        except UnicodeDecodeError as error:
            raise TypeError(
                f"{words.labels} must be text, got bytes: {reason(error)}; {words.fix}"
            ) from error
    if labels.dtype.kind == "T":  # of variable length
        labels = labels.astype(object)
    if labels.dtype.kind == "O":
        labels = _convert_objects(labels, words)
    if labels.dtype.kind == "U":
        return labels if hidden is None else np.where(hidden, "", labels)
    y = as_tensor(words.labels, labels)
    if hidden is None or y.dtype == torch.bool or y.is_complex():
        return y
    y = y if y.is_floating_point() else y.to(torch.int64)  # unsigned ones have no -1
    return y.masked_fill(torch.from_numpy(hidden), UNLABELLED)


def _convert_objects(labels: np.ndarray, words: Words) -> np.ndarray:
    """Return an array of Python objects as one of strings or of numbers."""
    flat = labels.reshape(-1).tolist()
    absent = [v is None or (isinstance(v, float) and v != v) for v in flat]
    kinds = {type(v) for v, none in zip(flat, absent, strict=True) if not none}
    if kinds and all(issubclass(kind, str) for kind in kinds):
        values = ["" if none else str(v) for v, none in zip(flat, absent, strict=True)]
        return np.array(values, dtype=str).reshape(labels.shape)
    if all(issubclass(k, (int, float, np.integer, np.floating)) and k is not bool for k in kinds):
        numbers = [UNLABELLED if none else v for v, none in zip(flat, absent, strict=True)]
        return np.array(numbers).reshape(labels.shape)
    got = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise TypeError(
        f"{words.labels} must be all strings or all numbers, got {reason(got)}; {words.fix}"
    )


def _encode_numbers(y: Tensor, words: Words) -> Tensor:
    if y.dtype == torch.bool or y.is_complex():
        raise TypeError(
            f"{words.labels} must be whole numbers or strings, got {describe(y)}; {words.fix}"
        )
    if y.is_floating_point():
        y = y.where(~y.isnan(), UNLABELLED)
        wrong = y[(y != y.floor()) | y.isinf()]
        if len(wrong):
            raise ValueError(
                f"{words.labels} must be whole numbers, got {wrong[0].item():g}; {words.fix}"
            )
    y = y.to(torch.int64)
    if y.min() < UNLABELLED:
        raise ValueError(f"{words.labels} must be -1 or more, got {int(y.min())}; {words.fix}")
    return y


def _encode_strings(
    y: np.ndarray, names: tuple[str, ...] | None, words: Words
) -> tuple[Tensor, tuple[str, ...] | None]:
    found, index = np.unique(y, return_inverse=True)
    known = [str(name) for name in found if name]
    for name in known:
        if name in _MISSING and name not in (names or ()):
            raise ValueError(
                f"{words.labels} must not have the string {name!r}, which may mean a missing one; "
                f"{words.absent}name it in {words.classes}= if it is one of them"
            )
        if names is not None and name not in names:
            raise ValueError(
                f"{words.labels} must be among the {words.classes} {quoted(names)}, got "
                f"{quoted(name)}; add it to {words.classes}="
            )
    names = tuple(known) if names is None else names
    number_of = {name: number for number, name in enumerate(names)}
    numbers = torch.tensor([number_of.get(str(name), UNLABELLED) for name in found])
    return numbers[torch.from_numpy(index.reshape(-1))], names or None


def _class_names(classes: Sequence[str], words: Words) -> tuple[str, ...]:
    fix = f"give the distinct names of the {words.classes}, in the order of their numbers"
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise TypeError(
            f"{words.classes} must be a sequence of strings, got {describe(classes)}; {fix}"
        )
    for name in classes:
        if not isinstance(name, str):
            raise TypeError(f"{words.classes} must be strings, got {describe(name)}; {fix}")
    if not classes or "" in classes or len(set(classes)) < len(classes):
        raise ValueError(
            f"{words.classes} must be distinct and not empty, got {quoted(classes)}; {fix}"
        )
    return tuple(str(name) for name in classes)
