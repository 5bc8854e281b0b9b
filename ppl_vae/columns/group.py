"""Columns of one kind, evaluated together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from ppl_vae.columns.family import ColumnFamily
from ppl_vae.errors import describe, sequence

Families: TypeAlias = Sequence[ColumnFamily] | nn.ModuleList
"""One for each column; a ModuleList is what parts keep."""


class Group(nn.Module):
    """The columns of a table that differ in nothing but their constants.

    Args:
        columns: of one kind.
        indices: where they are in the table.
        learned: whether to have the parameters of the columns that are the same for all rows.
    """

    indices: Tensor

    def __init__(
        self, columns: Sequence[ColumnFamily], indices: Sequence[int], *, learned: bool = True
    ) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.register_buffer("indices", torch.tensor(indices), persistent=False)
        for name in self.first.constants:
            values = torch.tensor([float(getattr(c, name)) for c in columns])
            self.register_buffer(name, values, persistent=False)
        self.learned = tuple(self.first.learned()) if learned else ()
        for name in self.learned:
            start = torch.stack([c.learned()[name] for c in columns])
            self.register_parameter(name, nn.Parameter(start.to(torch.get_default_dtype())))

    @property
    def first(self) -> ColumnFamily:
        """A column that computes for all."""
        return self.columns[0]

    @property
    def num_outputs(self) -> int:
        """How many numbers of a network the group takes."""
        return len(self.columns) * self.first.num_outputs

    def constants(self) -> dict[str, Tensor]:
        """Return the columns' constants by name, shape ``(n,)``."""
        return {name: getattr(self, name) for name in self.first.constants}

    def numbers(self) -> dict[str, Tensor]:
        """Return constants and learned parameters by name, shape ``(n, ...)``."""
        return self.constants() | {name: getattr(self, name) for name in self.learned}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Group:
        super()._apply(fn, recurse)
        for name in self.first.constants:
            buffer = getattr(self, name)
            if not buffer.is_meta:
                # float32's 0.1 converted to float64 is not float64's 0.1.
                values = [float(getattr(c, name)) for c in self.columns]
                setattr(self, name, torch.tensor(values, dtype=buffer.dtype, device=buffer.device))
        return self


class Groups(nn.ModuleList):
    """A list of groups."""

    def __iter__(self) -> Iterator[Group]:
        return cast(Iterator[Group], super().__iter__())


def grouped(columns: Sequence[ColumnFamily], *, learned: bool = True) -> Groups:
    """Return the groups of columns of one kind, in the order of their first columns."""
    kinds: dict[tuple[object, ...], list[int]] = {}
    for index, column in enumerate(columns):
        kinds.setdefault(column.kind(), []).append(index)
    return Groups(
        Group([columns[i] for i in indices], indices, learned=learned) for indices in kinds.values()
    )


def checked_columns(owner: str, columns: object) -> tuple[ColumnFamily, ...]:
    """Return columns as a tuple, or raise an error."""
    listed = list(columns) if isinstance(columns, nn.ModuleList) else columns
    given = tuple(sequence(owner, "columns", listed, "columns such as columns.Normal()"))
    if not given:
        raise ValueError(f"{owner}: columns must not be empty; give one for each column of x")
    for index, column in enumerate(given):
        if not isinstance(column, ColumnFamily):
            raise TypeError(
                f"{owner}: columns[{index}] must be a column such as columns.Normal(), got "
                f"{describe(column)}"
            )
    return given
