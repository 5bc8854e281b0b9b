"""Tables of a training's numbers, as arrays and as CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppl_vae.io.atomic import write_file


class Table:
    """Rows of numbers; missing entries are NaN.

    Args:
        columns: name -> its numbers, all of the same length.
    """

    def __init__(self, columns: Mapping[str, Tensor] | None = None) -> None:
        self._columns = {name: values.tolist() for name, values in (columns or {}).items()}

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), []))

    def append(self, row: Mapping[str, float | int]) -> None:
        """Add a row."""
        length = len(self)
        for name in row:
            self._columns.setdefault(name, [math.nan] * length)
        for name, values in self._columns.items():
            values.append(float(row.get(name, math.nan)))

    def last(self) -> dict[str, float]:
        """Return the last row."""
        return {name: values[-1] for name, values in self._columns.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the columns, ``step`` as integers."""
        columns = {name: np.array(values) for name, values in self._columns.items()}
        return {n: v.astype(np.int64) if n == "step" else v for n, v in columns.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the columns as tensors, the argument of ``Table``."""
        return {n: torch.tensor(v, dtype=torch.float64) for n, v in self._columns.items()}

    def write(self, path: Path) -> None:
        """Write the table as CSV at full precision, atomically."""
        names = list(self._columns)
        rows = zip(*self._columns.values(), strict=True)
        lines = [",".join(names), *(",".join(map(_number, row)) for row in rows)]
        write_file(path, "\n".join(lines) + "\n")


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
