"""What a reproduction consists of: a table of rows, each a training and its measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from ppl_vae.evaluation import Estimate
from ppl_vae.models import Pair
from ppl_vae.reproduction.records import Record, slug
from ppl_vae.reproduction.training import Data, Training

Quantities = Mapping[str, Estimate]
"""Measured values by name."""


@dataclass(frozen=True)
class Published:
    """A number in print.

    Args:
        value: as printed, ``"84.90"``.
        source: the key of its source in :attr:`Table.sources`.
        spread: the ± beside it, as printed, if any.
    """

    value: str
    source: str
    spread: str | None = None

    def minus(self, other: Published) -> Published:
        """Return by how much it is above another, with the digits that are in print."""
        return Published(str(Decimal(self.value) - Decimal(other.value)), self.source)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model, how it is trained, and what is measured of it.

    Args:
        name: what it is called in the table, unique there.
        train: trains a pair by :meth:`Training.fit` and returns it.
        measure: the measurements by name. Each is written as soon as it is made, and not made again
            when the command goes on.
        published: the numbers in print, of one source or several, by the name of the quantity.
        against: the rows it is compared with, datum by datum.
        shortened: how it differs from the protocol where it is run ``"shortened"``; None to run
            the whole protocol then, too.
        deviation: how the whole protocol differs from the source's, if it does.
    """

    name: str
    train: Callable[[Training], Pair]
    measure: Mapping[str, Callable[[Pair, Training], Quantities]]
    published: Mapping[str, Sequence[Published]] = field(default_factory=dict)
    against: tuple[str, ...] = ()
    shortened: str | None = None
    deviation: str = ""

    def extent(self, asked: str) -> str:
        """Return the extent it is run at where the table is run at the one asked for."""
        return "whole" if asked == "shortened" and self.shortened is None else asked


@dataclass(frozen=True, kw_only=True)
class Table:
    """A published table.

    Args:
        name: of the command, ``ppl-vae reproduce NAME``.
        title: a line on what it shows.
        data: loads the data, those of ``"smoke"`` without a download.
        rows: in the order of the table.
        sources: where published numbers are from, by a short key.
        protocol: in a few sentences, how all rows are trained and measured.
        minutes: of one core for one seed of all rows, about.
        draw: returns matplotlib figures by name, if the table has any: of the records, the trained
            pairs by row (those of the first seed) and the data.
    """

    name: str
    title: str
    data: Callable[[str], Data]
    rows: Sequence[Row]
    sources: Mapping[str, str]
    protocol: str
    minutes: int
    draw: Callable[[Sequence[Record], Mapping[str, Pair], Data], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        names = {row.name for row in self.rows}
        # Each row has a folder of its own.
        assert len({slug(name) for name in names} - {""}) == len(self.rows), names
        for row in self.rows:
            assert set(row.against) <= names - {row.name}, (row.name, row.against)
            for published in row.published.values():
                assert {p.source for p in published} <= set(self.sources), (row.name, published)
