"""The contract of a family of columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from ppl_vae.constructor import Constructed, arguments
from ppl_vae.distributions.scale import checked_min_scale, positive_scale
from ppl_vae.errors import describe, number

Source: TypeAlias = Literal["network", "learned"]
"""Where a parameter comes from: the network, a number for each row; or one learned number."""

MIN_SCALE = 1e-2
"""Default lower bound of standard deviations, in units of the column's own.

Values that many rows share, such as a maximum or a rounded number, would otherwise be given an
ever narrower density, whose log grows without bound.
"""


class ColumnFamily(Constructed, ABC):
    r"""The distribution p(x_j | outputs) of one column of a table, over its original values.

    A column takes ``num_outputs`` numbers of a network for each row. It holds no tensors:
    :class:`ppl_vae.likelihoods.Columns` stacks the constants and learned parameters of all columns
    that differ in nothing else, and evaluates them at once. So `distribution`, `features` and
    `estimate` are written for any number of columns, elementwise.

    **To add one**, subclass this, keep constructor arguments as attributes (see
    :mod:`ppl_vae.constructor`), and define

    - ``num_outputs``, ``support``, ``filling`` and ``distribution``;
    - ``constants``, the names of constructor arguments that are numbers, such as the mean by which
      values are standardised;
    - ``learned``, parameters that are the same for all rows, by name, with their initial values;
    - ``num_features`` and ``features``, what a network sees of a value
      (:class:`ppl_vae.columns.Encoder`);
    - ``statistics`` and ``estimate``, if the best guess is not the mean.

    `distribution` returns a density of x itself: whatever x was transformed by belongs to it, with
    its Jacobian, so that log-densities in nats can be compared whatever the transformation.
    """

    constants: tuple[str, ...] = ()
    num_outputs: int = 1
    num_features: int = 1
    filling: int | float = 0.0
    """A value in the support, in the place of missing ones."""

    @property
    @abstractmethod
    def support(self) -> Constraint:
        """The values that x may have."""

    def learned(self) -> dict[str, Tensor]:
        """Return the initial values of parameters that are the same for all rows."""
        return {}

    @abstractmethod
    def distribution(self, outputs: Tensor, **numbers: Tensor) -> Any:
        """Return p(x | outputs), batch shape ``(..., n)``, for n columns.

        Args:
            outputs: of the network, shape ``(..., n, num_outputs)``.
            numbers: `constants`, shape ``(n,)``, and `learned`, shape ``(n, *own shape)``.
        """

    def features(self, x: Tensor, **constants: Tensor) -> Tensor:
        """Return what a network sees of values ``(..., n)``, shape ``(..., n, num_features)``."""
        return x.unsqueeze(-1)

    def statistics(self, p: Any) -> Tensor:
        """Return expectations under p that a best guess needs, shape ``(..., n, statistics)``."""
        return p.mean.unsqueeze(-1)

    def estimate(self, statistics: Tensor) -> Tensor:
        """Return the best guess from averages of `statistics`, shape ``(..., n)``: the mean."""
        return statistics[..., 0]

    def kind(self) -> tuple[object, ...]:
        """Return what columns that are evaluated together have in common."""
        settings = {k: v for k, v in arguments(self).items() if k not in self.constants}
        return (type(self), *sorted(settings.items()))

    def _declare(self, **constants: object) -> None:
        """Keep finite numbers as attributes, those called ``std`` or ``*_std`` positive."""
        for name, value in constants.items():
            above = 0 if name.endswith("std") else None
            setattr(self, name, number(type(self).__name__, name, value, above=above))

    def _source(self, name: str, value: object) -> None:
        if value not in ("network", "learned"):
            expected = "'network' (a number for each row) or 'learned' (one for all)"
            owner = type(self).__name__
            raise ValueError(f"{owner}: {name} must be {expected}, got {describe(value)}")
        setattr(self, name, value)


class ScaledFamily(ColumnFamily, ABC):
    """A family with a location from the network and a scale from there or learned."""

    scale: Source
    min_scale: int | float

    def _declare_scale(self, scale: Source, min_scale: int | float) -> None:
        self._source("scale", scale)
        self.min_scale = checked_min_scale(type(self).__name__, min_scale)

    @property
    def num_outputs(self) -> int:
        """A location, and a scale unless it is learned."""
        return 1 + (self.scale == "network")

    def learned(self) -> dict[str, Tensor]:
        """Return the unconstrained scale, if it is learned."""
        return {"unconstrained_scale": initial()} if self.scale == "learned" else {}


def second_parameter(
    outputs: Tensor, learned: Tensor | None, minimum: int | float = MIN_SCALE
) -> Tensor:
    """Return a positive parameter: of the network's second output, or the learned number."""
    return positive_scale(outputs[..., 1] if learned is None else learned, minimum)


def initial(value: int | float = 0.0) -> Tensor:
    """Return the initial value of a learned parameter."""
    return torch.tensor(float(value))
