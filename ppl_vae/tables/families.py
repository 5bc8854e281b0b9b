"""From the kind of a column to its distribution, standardised by what is observed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppl_vae import columns
from ppl_vae.columns import ColumnFamily
from ppl_vae.errors import quoted
from ppl_vae.tables.schema import Schema

Family = Callable[[np.ndarray], ColumnFamily]
"""Makes a column from its observed values."""


def _normal(x: np.ndarray) -> ColumnFamily:
    return columns.Normal(x.mean().item(), _spread(x))


def _student_t(x: np.ndarray) -> ColumnFamily:
    return columns.StudentT(x.mean().item(), _spread(x))


def _log_normal(x: np.ndarray) -> ColumnFamily:
    logs = np.log(x)
    return columns.LogNormal(logs.mean().item(), _spread(logs))


def _hurdle_log_normal(x: np.ndarray) -> ColumnFamily:
    logs = np.log(x[x > 0])
    if not len(logs):
        return columns.HurdleLogNormal()
    return columns.HurdleLogNormal(logs.mean().item(), _spread(logs))


def _gamma(x: np.ndarray) -> ColumnFamily:
    return columns.Gamma(x.mean().item())


def _poisson(x: np.ndarray) -> ColumnFamily:
    return columns.Poisson(max(x.mean().item(), _LEAST_MEAN))


def _negative_binomial(x: np.ndarray) -> ColumnFamily:
    return columns.NegativeBinomial(max(x.mean().item(), _LEAST_MEAN))


FAMILIES: Mapping[str, Mapping[str, Family]] = {
    "real": {"Normal": _normal, "StudentT": _student_t},
    "positive": {"LogNormal": _log_normal, "Gamma": _gamma},
    "nonnegative": {"HurdleLogNormal": _hurdle_log_normal},
    "count": {"NegativeBinomial": _negative_binomial, "Poisson": _poisson},
}
"""Per kind of column the families to choose from; the first is the default."""

_LEAST_MEAN = 0.1
"""Of counts, where all observed ones are 0."""


def _spread(x: np.ndarray) -> float:
    """Return the standard deviation; 1 where there is none."""
    std = x.std().item()
    return std if std > 1e-12 * abs(x.mean().item()) else 1.0


def family(kind: str, name: str | None) -> Family:
    """Return a family of a kind by its name; the default if that is None."""
    known = FAMILIES[kind]
    if name is None:
        return next(iter(known.values()))
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"families: a {kind} column may be {' or '.join(map(quoted, known))}, got "
            f"{quoted(name)}"
        )
    return known[name]


def columns_of(
    schema: Schema, values: np.ndarray, mask: np.ndarray, families: Mapping[str, str]
) -> list[ColumnFamily]:
    """Return the distribution of each column of a table, standardised by its observed values.

    Args:
        schema: of the table.
        values, mask: as ``schema.encode`` returns them.
        families: the name of a family by kind, see `FAMILIES`.
    """
    for kind, name in families.items():
        if kind not in FAMILIES:
            known = ", ".join(map(quoted, FAMILIES))
            raise ValueError(
                f"families: the kinds that have a choice are {known}, got {quoted(kind)}"
            )
        family(kind, name)  # also where no column is of this kind
    return [
        _column(declared, x[seen], families)
        for declared, x, seen in zip(schema.columns, values.T, mask.T, strict=True)
    ]


def _column(declared: Any, observed: np.ndarray, families: Mapping[str, str]) -> ColumnFamily:
    if declared.kind in FAMILIES:
        return family(declared.kind, families.get(declared.kind))(observed)
    if declared.kind == "bounded":
        return columns.LogitNormal(declared.low, declared.high)
    if declared.kind == "binary":
        return columns.Bernoulli()
    count = len(declared.categories)
    ordinal = declared.kind == "ordinal" and count > 1
    return columns.Ordinal(count) if ordinal else columns.Categorical(count)
