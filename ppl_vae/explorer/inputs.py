"""The arguments of the explorer, checked: pairs and their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.errors import describe, integer, quoted, seed_of, sizes
from ppl_vae.explorer.colours import Colouring, of_codes
from ppl_vae.explorer.display import Cells, Display, Images
from ppl_vae.explorer.explored import Explored
from ppl_vae.protocols import check_pair
from ppl_vae.report.evaluation_data import EvaluationData
from ppl_vae.report.pair_data import pair_data
from ppl_vae.tensors import as_tensor

if TYPE_CHECKING:
    from ppl_vae.tables import TableVAE


def explored(
    owner: str,
    pairs: Any,
    data: Any,
    *,
    columns: Mapping[str, Any] | None,
    image_shape: Sequence[int] | None,
    site: str | None,
    num_data: int | None,
    seed: int,
) -> list[Explored]:
    """Return pairs with their data; see :func:`ppl_vae.explorer.explore`."""
    seed = seed_of(owner, seed)
    if num_data is not None:
        num_data = integer(owner, "num_data", num_data, 2, "give None for all")
    named = _named(owner, pairs)
    if any(_is_table(pair) for pair in named.values()):
        if image_shape is not None:
            raise ValueError(
                f"{owner}: image_shape is of images, got {describe(image_shape)} with a table; "
                f"leave it out"
            )
        found = _of_tables(owner, named, data, columns, site, num_data, seed)
    else:
        found = _of_pairs(owner, named, data, columns, image_shape, site, num_data, seed)
    for each in found:
        each.colourings()  # raises now, rather than on the page
    return found


def _of_pairs(
    owner: str,
    pairs: Mapping[str, Any],
    data: Any,
    columns: Mapping[str, Any] | None,
    image_shape: Sequence[int] | None,
    site: str | None,
    num_data: int | None,
    seed: int,
) -> list[Explored]:
    for pair in pairs.values():
        check_pair(owner, pair)
    if isinstance(data, np.ndarray):
        data = as_tensor(f"{owner}: data", data)
    if not isinstance(data, (Dataset, Tensor)):
        raise TypeError(f"{owner}: data must be a Dataset or a tensor, got {describe(data)}")
    if image_shape is not None:
        image_shape = sizes(owner, "image_shape", image_shape)
    chosen = EvaluationData.of(
        data, image_shape=image_shape, num_data=num_data, seed=seed, owner=owner
    )
    extra = [*_extra(owner, columns, len(data), chosen), *_factors(chosen)]
    found = []
    for name, pair in pairs.items():
        inputs = pair_data(name, pair, chosen)
        shape, missing = chosen.image_shape, inputs.mask is not None
        x = inputs.x if inputs.mask is None else inputs.x.masked_fill(~inputs.mask, torch.nan)
        if shape is None:
            display: Display = Cells.of(x.cpu())
        else:
            display = Images(shape, missing, inputs.black_and_white)
        found.append(Explored(inputs, display, extra=extra, site=site, seed=seed))
    return found


def _of_tables(
    owner: str,
    vaes: Mapping[str, TableVAE],
    frame: Any,
    columns: Mapping[str, Any] | None,
    site: str | None,
    num_data: int | None,
    seed: int,
) -> list[Explored]:
    first = next(iter(vaes.values()))
    found = []
    for name, vae in vaes.items():
        if not _is_table(vae):
            raise TypeError(f"{owner}: pairs must all be a TableVAE, got {describe(vae)}")
        if [c.name for c in vae.schema_] != [c.name for c in first.schema_]:
            raise ValueError(f"{owner}: {quoted(name)} is of a table with other columns")
        _, x, mask = vae._rows(owner, frame)
        observed = None if mask.all() else mask
        chosen = EvaluationData.of(x, num_data=num_data, seed=seed, mask=observed, owner=owner)
        inputs = pair_data(name, vae.pair_, chosen)
        shown = inputs.x if inputs.mask is None else inputs.x.masked_fill(~inputs.mask, torch.nan)
        display = Cells.of(shown.cpu(), tuple(vae.schema_))
        extra = _extra(owner, columns, len(x), chosen)
        found.append(
            Explored(inputs, display, columns=tuple(vae.schema_), extra=extra, site=site, seed=seed)
        )
    return found


def _named(owner: str, pairs: Any) -> dict[str, Any]:
    """Return pairs by name."""
    if not isinstance(pairs, Mapping):
        return {type(pairs).__name__: pairs}
    if not pairs:
        raise ValueError(f"{owner}: pairs must have one pair or more, got none")
    return {str(name): pair for name, pair in pairs.items()}


def _is_table(pair: object) -> bool:
    return hasattr(pair, "schema_") and hasattr(pair, "pair_")


def _extra(
    owner: str, columns: Mapping[str, Any] | None, total: int, chosen: EvaluationData
) -> list[Colouring]:
    """Return the user's columns: numbers, or anything else as categories."""
    if columns is not None and not isinstance(columns, Mapping):
        raise TypeError(
            f"{owner}: columns must map names to values of the data, got {describe(columns)}"
        )
    found = []
    for name, given in (columns or {}).items():
        values = np.asarray(given)
        if values.shape != (total,):
            raise ValueError(
                f"{owner}: columns[{quoted(name)}] must have {total} values, one for each datum, "
                f"got {describe(given)}"
            )
        values = values[chosen.index.numpy()]
        if values.dtype.kind in "mM":  # dates and durations
            dates = values.astype(str).astype(object)
            dates[np.isnat(values)] = None
            values = dates
        absent = np.array([value is None for value in values.tolist()])
        known = np.array(values[~absent].tolist())
        if known.dtype.kind in "iuf":
            numbers = np.full(len(values), np.nan)
            numbers[~absent] = known
            found.append(Colouring(str(name), numbers))
        else:
            codes = np.full(len(values), -1)
            categories, codes[~absent] = np.unique(known.astype(str), return_inverse=True)
            found.append(of_codes(str(name), codes.tolist(), categories.tolist()))
    return found


def _factors(chosen: EvaluationData) -> list[Colouring]:
    """Return the known factors of the data."""
    factors = chosen.factors
    if factors is None:
        return []
    return [
        Colouring(f"factor {name}", factors.values[:, j].double().cpu().numpy())
        for j, name in enumerate(factors.names)
    ]
