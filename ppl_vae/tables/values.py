"""A table in memory, and its values as a tensor."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn import config_context
from sklearn.utils.validation import check_array
from torch import Tensor

from ppl_vae.errors import quoted
from ppl_vae.tables.files import read_table
from ppl_vae.tables.frames import Frame
from ppl_vae.tables.schema import Schema

_FEWEST_DIGITS = 0.01
"""How coarse numbers may be in a network's dtype, in standard deviations of their column."""


def as_table(X: Frame, kinds: object = None) -> Any:
    """Return a table in memory: of a file, of a list of rows, of whatever NumPy makes an array of.

    A file is read by what ``kinds``, as of `Schema.infer`, say of its columns.
    Frames, and arrays that hide cells or have fields, are as they came. Of the others scikit-learn
    refuses, in its words, what is sparse, complex, or not of two dimensions.
    """
    if isinstance(X, (str, os.PathLike)):
        return read_table(X, kinds if isinstance(kinds, Mapping) else None)
    if isinstance(X, (list, tuple)):
        _check_rows(X)
        X = np.array(X, dtype=object)  # in which each column keeps its type
    if isinstance(X, np.ma.MaskedArray) or (isinstance(X, np.ndarray) and X.dtype.names):
        return X
    is_frame = hasattr(type(X), "columns") or hasattr(type(X), "column_names")
    is_sparse = hasattr(X, "tocsr")
    if is_frame or not (is_sparse or hasattr(X, "__array__")):
        return X
    with config_context(assume_finite=True):  # missing cells are NaN; the schema looks at others
        return check_array(X, dtype=None, estimator="TableVAE")


def _check_rows(rows: Sequence[Any]) -> None:
    """Raise ValueError for a list without rows, and for rows of several lengths."""
    if not rows:
        raise ValueError("TableVAE: the table has no rows")
    lengths = [len(row) if isinstance(row, (list, tuple, np.ndarray)) else 0 for row in rows]
    odd = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
    if odd is not None:
        raise ValueError(
            f"TableVAE: the rows of a list must have one length, got {lengths[0]} cells in row 0 "
            f"and {lengths[odd]} in row {odd}; fill its missing cells with None"
        )


def tensor_of(schema: Schema, values: np.ndarray, dtype: torch.dtype, owner: str) -> Tensor:
    """Return values, 0 where missing, in a dtype; raise ValueError where it cannot hold them."""
    x = torch.from_numpy(np.nan_to_num(values)).to(dtype)
    observed = ~torch.from_numpy(values).isnan()
    for j, column in enumerate(schema):
        low = 0.0 if column.kind == "positive" else column.low
        kept = x[:, j].isfinite()
        if low is not None:
            kept &= x[:, j] > low
        if column.kind == "nonnegative":
            kept &= (x[:, j] > 0) | torch.from_numpy(values[:, j] == 0)
        if column.high is not None:
            kept &= x[:, j] < column.high
        if (lost := observed[:, j] & ~kept).any():
            row = int(lost.nonzero()[0])
            raise ValueError(
                f"{owner}: row {row}, column {quoted(column.name)} is {values[row, j]:g}, which "
                f"{dtype} does not hold as such; rescale the column, or fit with "
                f"torch.set_default_dtype(torch.float64)"
            )
    return x


def array_of(values: Tensor) -> np.ndarray:
    """Return values as float64, others by their shortest decimals: of float32, 7.4 is 7.4.

    As float64 it would be 7.400000095367432, digits that mean nothing and fill a CSV file.
    """
    array = values.detach().cpu().numpy()
    return array if array.dtype == np.float64 else array.astype(str).astype(np.float64)


def check_digits(schema: Schema, values: np.ndarray, dtype: torch.dtype) -> None:
    """Raise ValueError for a column whose differences, or their squares, a dtype does not hold."""
    about = torch.finfo(dtype)
    least, most = math.sqrt(about.tiny / about.eps), math.sqrt(about.max * about.eps)
    for column, x in zip(schema, values.T, strict=True):
        x, logs = x[~np.isnan(x)], column.kind in ("positive", "nonnegative")
        if logs:  # which are what is standardised
            x = np.log(x[x > 0])
        elif column.kind not in ("real", "bounded", "count"):
            continue
        if not len(x) or np.ptp(x) == 0:
            continue
        spread, largest = x.std(), 1.0 if logs else np.abs(x).max()
        coarse = about.eps * largest > _FEWEST_DIGITS * spread
        if coarse or (column.kind == "real" and not least < spread < most):
            fix = "subtract a constant" if coarse else "rescale it"
            raise ValueError(
                f"TableVAE.fit: the numbers of column {quoted(column.name)}, {column.contents}, "
                f"have differences that {dtype} does not hold: {fix}, or fit with "
                f"torch.set_default_dtype(torch.float64)"
            )
