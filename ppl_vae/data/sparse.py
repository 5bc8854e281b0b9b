"""Matrices of which only the entries other than 0 are held, row by row: torch's CSR layout."""

from __future__ import annotations

import warnings
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ppl_vae.tensors import as_tensor


@runtime_checkable
class SciPySparse(Protocol):
    """A sparse matrix or array of SciPy, in any of its formats."""

    def tocsr(self) -> Any:
        """Return it in the format CSR."""


def is_sparse(values: Tensor) -> bool:
    """Return whether a tensor is of the CSR layout."""
    return values.layout == torch.sparse_csr


def from_scipy(matrix: SciPySparse) -> Tensor:
    """Return a SciPy sparse matrix or array as a CSR tensor; entries given twice are summed."""
    csr = matrix.tocsr()
    if not csr.has_canonical_format:
        csr = csr.copy()  # SciPy would change the user's matrix
        csr.sum_duplicates()
    starts, columns = as_tensor("values", csr.indptr), as_tensor("values", csr.indices)
    if starts.dtype != columns.dtype:
        starts, columns = starts.long(), columns.long()
    if not len(columns):  # NumPy's stride of 0, which torch 2.8 refuses
        columns = columns.new_empty(0)
    return csr_tensor(starts, columns, as_tensor("values", csr.data), tuple(csr.shape))


def csr_tensor(
    starts: Tensor, columns: Tensor, entries: Tensor, shape: tuple[int, ...], check: bool = True
) -> Tensor:
    """Return a CSR tensor: row i has the entries and columns ``starts[i]:starts[i + 1]``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, entries, shape, check_invariants=check)


def parts_of(values: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...]]:
    """Return the arguments of `csr_tensor` that make a tensor again: torch cannot copy one."""
    return values.crow_indices(), values.col_indices(), values.values(), tuple(values.shape)


def stored(values: Tensor) -> Tensor:
    """Return all distinct values of a matrix, and perhaps some twice: the entries, and 0 if any."""
    entries = values.values()
    full = len(entries) == values.shape[0] * values.shape[1]
    return entries if full else torch.cat([entries, entries.new_zeros(1)])


def dense_rows(values: Tensor, index: Tensor) -> Tensor:
    """Return rows, at indices from 0, as a dense matrix."""
    row, at = _places(values, index)
    dense = values.values().new_zeros(len(index), values.shape[1])
    dense[row, values.col_indices()[at].long()] = values.values()[at]
    return dense


def sparse_rows(values: Tensor, index: Tensor) -> Tensor:
    """Return rows, at indices from 0, as a matrix of the same layout."""
    row, at = _places(values, index)
    starts = torch.zeros(len(index) + 1, dtype=torch.int64, device=index.device)
    starts[1:] = torch.bincount(row, minlength=len(index)).cumsum(0)
    columns = values.col_indices()[at]
    starts, shape = starts.to(columns.dtype), (len(index), values.shape[1])
    return csr_tensor(starts, columns, values.values()[at], shape, check=False)


def row_sums(values: Tensor) -> Tensor:
    """Return the sum of each row, in float64."""
    row, _ = _places(values, torch.arange(len(values), device=values.device))
    sums = torch.zeros(len(values), dtype=torch.float64, device=values.device)
    return sums.index_add_(0, row, values.values().double())


def place_of(values: Tensor, entry: int) -> tuple[int, int]:
    """Return row and column of an entry, by its place among all entries."""
    row = int((values.crow_indices() <= entry).sum()) - 1
    return row, int(values.col_indices()[entry])


def _places(values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return, of each entry of some rows, its row in the result and its place among all entries."""
    starts = values.crow_indices().long()
    first, count = starts[index], starts[index + 1] - starts[index]
    row = torch.repeat_interleave(torch.arange(len(index), device=index.device), count)
    before = count.cumsum(0) - count  # entries of the rows before, in the result
    return row, torch.arange(len(row), device=index.device) + (first - before)[row]
