"""A joint distribution of independent columns, each of its own kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints


class Block(NamedTuple):
    """Some columns of one kind."""

    columns: Tensor
    """Their indices, int64 of shape ``(n,)``."""
    distribution: Any
    """Of batch shape ``(..., n)`` and event shape ``()``."""


class ColumnSupport(constraints.Constraint):
    """The supports of columns, each checked on its own values.

    Args:
        supports: those of each column.
        filling: a value in each support.
    """

    event_dim = 0

    def __init__(
        self, supports: Sequence[constraints.Constraint], filling: Sequence[float]
    ) -> None:
        self.supports = tuple(supports)
        self.filling = tuple(filling)
        super().__init__()

    @property
    def is_discrete(self) -> bool:
        """Whether every column is discrete: their joint has a mass, not a density."""
        return all(support.is_discrete for support in self.supports)

    def check(self, value: Tensor) -> Tensor:
        """Return for each value, shape ``(..., D)``, whether it is in its column's support."""
        each = [s.check(v) for s, v in zip(self.supports, value.unbind(-1), strict=True)]
        return torch.stack(each, dim=-1)

    def __repr__(self) -> str:
        kinds = dict.fromkeys(str(support).removesuffix("()") for support in self.supports)
        return f"columns of {', '.join(kinds)}"


class Columnwise(TorchDistribution):
    """p(x) = Π_j p_j(x_j) with a family for each column; batch shape ``(..., D)``.

    Args:
        blocks: the columns of each family; their indices are a permutation of 0, ..., D - 1.
        order: its inverse: where each column is among those of the blocks, one after another.
        support: that of each column.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        blocks: Sequence[Block],
        order: Tensor,
        support: ColumnSupport,
        validate_args: bool | None = None,
    ) -> None:
        self.blocks = tuple(blocks)
        self._order = order
        self._support = support
        leading = torch.broadcast_shapes(*(b.distribution.batch_shape[:-1] for b in blocks))
        width = sum(len(block.columns) for block in blocks)
        super().__init__(Size((*leading, width)), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """The support of each column."""
        return self._support

    @property
    def has_rsample(self) -> bool:
        """Whether every column has reparameterised draws."""
        return all(block.distribution.has_rsample for block in self.blocks)

    def expand(self, batch_shape: Sequence[int], _instance: Columnwise | None = None) -> Columnwise:
        """Return the distribution with its batch shape broadcast."""
        new = self._get_checked_instance(Columnwise, _instance)
        *leading, width = batch_shape
        if width != self.batch_shape[-1]:
            raise ValueError(f"expand: there are {self.batch_shape[-1]} columns, got {width}")
        new._order, new._support = self._order, self._support
        new.blocks = tuple(
            Block(columns, p.expand((*leading, len(columns)))) for columns, p in self.blocks
        )
        super(Columnwise, new).__init__(Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p_j(x_j), in nats, shape ``(..., D)``; where a column is discrete its mass."""
        if self._validate_args:
            self._validate_sample(value)
        return self._joined([p.log_prob(value[..., columns]) for columns, p in self.blocks])

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw x."""
        with torch.no_grad():
            return self._joined([p.sample(Size(sample_shape)) for _, p in self.blocks])

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw x by reparameterisation; raise NotImplementedError if a column has none."""
        return self._joined([p.rsample(Size(sample_shape)) for _, p in self.blocks])

    @property
    def mean(self) -> Tensor:
        """E[x_j]; of a categorical column the mean code."""
        return self._joined([p.mean for _, p in self.blocks])

    @property
    def variance(self) -> Tensor:
        """Var[x_j]."""
        return self._joined([p.variance for _, p in self.blocks])

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Return what is known of each block in the order of the columns."""
        leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        parts = [part.expand(*leading, part.shape[-1]) for part in parts]
        return torch.cat(parts, dim=-1)[..., self._order]
