"""Counts of cells or documents, with what is given beside them: batches, covariates, totals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ppl_vae.data import sparse
from ppl_vae.data.checks import checked_context, checked_values
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.label_encoding import Words, encode_labels
from ppl_vae.errors import describe, flag, path_of, quoted, reason, sequence

_BATCHES = Words("batch", "batches", "", "give numbers 0, 1, ... or names, one for each datum")


def from_counts(
    x: Tensor | np.ndarray | sparse.SciPySparse,
    labels: Tensor | np.ndarray | Sequence[object] | None = None,
    *,
    batch: Tensor | np.ndarray | Sequence[object] | None = None,
    covariates: Tensor | np.ndarray | None = None,
    size_factor: bool = True,
    name: str = "counts",
    classes: Sequence[str] | None = None,
    batches: Sequence[str] | None = None,
) -> Dataset:
    """Make a dataset of counts whose context is that of a likelihood with a size factor.

    The context of a datum is its batch, one-hot, its covariates, and log l, the logarithm of its
    library size l = Σ_d x_d, in this order: what `ppl_vae.likelihoods.NegativeBinomial` takes with
    ``size_factor="context"`` in a `ppl_vae.ConditionalVAE` with ``context_features``.

    l is computed from x, so that the likelihood is one of counts given their sum, although counts
    under it need not have that sum; numbers compare only among models with the same l.

    Args:
        x: counts, shape ``(N, D)``: a sparse matrix of SciPy, which stays sparse, a tensor or an
            array.
        labels: as in `Dataset`, such as cell types; not part of the context.
        batch: of each datum, numbers or names as for ``labels``, none missing; None for one batch,
            which needs no code.
        covariates: real numbers, shape ``(N, features)``, of about unit size: networks see them as
            they are.
        size_factor: whether the context ends with log l.
        name: for messages and reports.
        classes: as in `Dataset`.
        batches: the names of the batches, in the order of their codes, perhaps with some that do
            not occur; by default those that do, sorted. Pass those of the training data to other
            data.

    Raises:
        TypeError: unsupported dtype of counts, labels, batches or covariates.
        ValueError: an empty row, whose l is 0; values that are negative or not whole; a datum
            without a batch; covariates of another number of rows, or not finite.

    Example:
        >>> counts = torch.tensor([[3, 0, 1], [0, 2, 6]])
        >>> dataset = from_counts(counts, batch=["b", "a"])
        >>> dataset.context
        tensor([[0.0000, 1.0000, 1.3863],
                [1.0000, 0.0000, 2.0794]])
    """
    values = checked_values(x)
    _check_counts(values)
    parts: list[Tensor] = []
    said: list[str] = []
    if batch is not None:
        number, names = encode_labels(batch, len(values), batches, _BATCHES)
        if (number < 0).any():
            where = int((number < 0).nonzero()[0])
            raise ValueError(f"batch must be given for each datum, got none at index {where}")
        total = int(number.max()) + 1 if names is None else len(names)
        parts.append(F.one_hot(number, total).to(values.device, torch.get_default_dtype()))
        said.append(f"batch ({total})")
    elif batches is not None:
        raise ValueError("batches are the names of batch=, got None for it; give both or neither")
    if covariates is not None:
        parts.append(
            checked_context(covariates, values, "covariates").to(torch.get_default_dtype())
        )
        said.append(f"covariates ({parts[-1].shape[1]})")
    if flag("from_counts", "size_factor", size_factor):
        parts.append(_log_library_size(values))
        said.append("log library size")
    return Dataset(
        values,
        labels,
        name,
        scale=1,
        context=torch.cat(parts, 1) if parts else None,
        classes=classes,
        conversions=(f"context of {', '.join(said)}",) if said else (),
    )


def from_h5ad(
    path: str | Path,
    labels: str | None = None,
    *,
    layer: str | None = None,
    batch: str | None = None,
    covariates: Sequence[str] = (),
    size_factor: bool = True,
    classes: Sequence[str] | None = None,
    batches: Sequence[str] | None = None,
) -> Dataset:
    """Read counts from an ``.h5ad`` file by anndata, ``pip install "ppl-vae[counts]"``.

    Args:
        path: the file.
        labels: the column of ``obs`` with the labels, such as cell types.
        layer: the layer with the raw counts; ``X`` if None. A sparse matrix stays sparse.
        batch: the column of ``obs`` with the batches.
        covariates: columns of ``obs`` with real numbers.
        size_factor: as in `from_counts`, and so are ``classes`` and ``batches``.

    Raises:
        ImportError: anndata is not installed.
        FileNotFoundError: no file at the path.
        ValueError: a column or layer that is not there; and as `from_counts` does.
    """
    path = path_of("from_h5ad", "path", path).expanduser()
    columns = sequence("from_h5ad", "covariates", covariates, "names")
    if not path.is_file():
        raise FileNotFoundError(f"path must be an existing .h5ad file, got {quoted(path)}")
    try:
        import anndata
    except ImportError as error:
        fix = 'pip install "ppl-vae[counts]"'
        raise ImportError(f"from_h5ad needs anndata: {fix}") from error
    try:
        table = anndata.read_h5ad(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"path must be an .h5ad file, got {quoted(path)}, which cannot be read: {reason(error)}"
        ) from error
    return _from_table(
        table, path.stem, labels, layer, batch, columns, size_factor, classes, batches
    )


def _from_table(
    table: Any,
    name: str,
    labels: str | None,
    layer: str | None,
    batch: str | None,
    covariates: Sequence[str],
    size_factor: bool,
    classes: Sequence[str] | None,
    batches: Sequence[str] | None,
) -> Dataset:
    """Return the data set of an AnnData object."""

    def column(argument: str, key: str) -> np.ndarray:
        if key not in table.obs:
            raise ValueError(
                f"from_h5ad: {argument} must be a column of obs, got {quoted(key)}; there are "
                f"{reason(', '.join(map(str, table.obs.columns))) or 'none'}"
            )
        return table.obs[key].to_numpy()

    if layer is not None and layer not in table.layers:
        raise ValueError(
            f"from_h5ad: layer must be one of the file's, got {quoted(layer)}; there are "
            f"{reason(', '.join(table.layers)) or 'none'}"
        )
    real = [column("covariates", key) for key in covariates]
    try:
        stacked = np.stack([v.astype(np.float64) for v in real], 1) if real else None
    except (TypeError, ValueError) as error:
        raise TypeError(f"from_h5ad: covariates must be real numbers: {reason(error)}") from error
    return from_counts(
        table.X if layer is None else table.layers[layer],
        None if labels is None else column("labels", labels),
        batch=None if batch is None else column("batch", batch),
        covariates=stacked,
        size_factor=size_factor,
        name=name,
        classes=classes,
        batches=batches,
    )


def _check_counts(values: Tensor) -> None:
    """Raise ValueError unless values are a matrix of whole numbers from 0."""
    if values.ndim != 2:
        raise ValueError(f"x must have shape (N, D), got {describe(values)}")
    seen = sparse.stored(values) if sparse.is_sparse(values) else values
    whole = not seen.is_floating_point() or bool((seen == seen.round()).all())  # nor NaN
    if not whole or (seen < 0).any() or not seen.isfinite().all():
        low, high = (v.item() for v in seen.aminmax())
        kind = "" if whole else "that are not whole, "
        raise ValueError(
            f"x must be counts 0, 1, 2, ..., got values {kind}from {low:g} to {high:g}; give the "
            f"raw counts (in an .h5ad file perhaps a layer), not normalised ones"
        )


def _log_library_size(values: Tensor) -> Tensor:
    """Return log Σ_d x_d, shape ``(N, 1)``."""
    sums = sparse.row_sums(values) if sparse.is_sparse(values) else values.double().sum(1)
    if empty := int((sums == 0).sum()):
        where = int((sums == 0).nonzero()[0])
        raise ValueError(
            f"x must have a count in every row, got {empty} empty rows, the first at index "
            f"{where}; leave them out, or give size_factor=False"
        )
    return sums.log()[:, None].to(torch.get_default_dtype())
