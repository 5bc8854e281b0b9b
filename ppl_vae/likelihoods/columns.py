"""The likelihood of a table with columns of several kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.columns.group import Families, checked_columns, grouped
from ppl_vae.conditional import NeuralConditional
from ppl_vae.distributions.columnwise import Block, ColumnSupport, Columnwise
from ppl_vae.errors import sizes


class Columns(NeuralConditional):
    r"""p(x | z) = Π_j p_j(x_j | net(z)_j), with a family for each column of a table.

    x has shape ``(..., D)`` and holds the original values: real, positive or bounded ones, counts,
    and categories and levels as codes 0, 1, ... . log p(x | z) is that of x: standardisation is
    part of the density, so that tables standardised in different ways have comparable numbers. It
    is a log-mass where all columns are discrete, and mixes masses with densities otherwise.

    The columns are independent given z: any of them may be missing (``mask=``).

    Columns that differ in nothing but constants are computed together; the network's outputs are
    those of the first such group, column by column, then those of the second, and so on.

    Args:
        net: any module ``(..., latent_dim) -> (..., outputs)`` with ``Columns.net_shape(columns=
            columns)`` outputs.
        columns: one for each column of x, from :mod:`ppl_vae.columns`.

    Raises:
        TypeError: for anything that is not a column.
        ValueError: without columns, or if the network has another number of outputs.

    Source: Nazábal et al. 2020 (arXiv 1807.03653), section 3, for heterogeneous likelihoods.

    Example:
        >>> from ppl_vae import columns, nets
        >>> table = [columns.Normal(170.0, 10.0), columns.Categorical(3), columns.Poisson(2.0)]
        >>> (outputs,) = Columns.net_shape(columns=table)
        >>> p = Columns(nets.MLP(10, outputs), table)(torch.zeros(5, 10))
        >>> p.log_prob(torch.tensor([181.5, 2.0, 0.0])).shape
        torch.Size([5])
    """

    order: Tensor

    def __init__(self, net: nn.Module, columns: Families) -> None:
        super().__init__(net)
        given = checked_columns("Columns", columns)
        self.columns = nn.ModuleList(given)
        self.groups = grouped(given)
        order = torch.cat([group.indices for group in self.groups]).argsort()
        self.register_buffer("order", order, persistent=False)
        filling = [float(c.filling) for c in given]
        self._support = ColumnSupport([c.support for c in given], filling)

    @staticmethod
    def net_shape(
        event_shape: Sequence[int] | None = None, *, columns: Families
    ) -> tuple[int, ...]:
        """Return the shape of the network's output per row."""
        given = checked_columns("net_shape", columns)
        if event_shape is not None and sizes("net_shape", "event_shape", event_shape) != (
            len(given),
        ):
            raise ValueError(
                f"net_shape: event_shape must be ({len(given)},), one for each column, got "
                f"{event_shape}"
            )
        return (sum(column.num_outputs for column in given),)

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape ``(D,)``."""
        outputs = self.outputs(*context)
        sizes = [group.num_outputs for group in self.groups]
        if outputs.shape[-1:] != (sum(sizes),):
            raise ValueError(
                f"Columns: net must return {sum(sizes)} numbers for its {len(self.columns)} "
                f"columns, got an output of shape {tuple(outputs.shape)}; "
                f"Columns.net_shape(columns=columns) gives the shape"
            )
        blocks = []
        for group, part in zip(self.groups, outputs.split(sizes, dim=-1), strict=True):
            own = part.unflatten(-1, (len(group.columns), -1))
            distribution = group.first.distribution(own, **group.numbers())
            blocks.append(Block(group.indices, distribution))
        return Columnwise(blocks, self.order, self._support).to_event(1)

    def statistics(self, p_x: Distribution) -> list[Tensor]:
        """Return for each group what its best guess needs, shape ``(..., n, statistics)``.

        Averages of them over draws of z are those under the mixture of p(x | z), from which
        `estimate` computes the best guess.
        """
        elements: Any = getattr(p_x, "base_dist", p_x)
        return [
            group.first.statistics(block.distribution)
            for group, block in zip(self.groups, elements.blocks, strict=True)
        ]

    def estimate(self, statistics: Sequence[Tensor]) -> Tensor:
        """Return the best guess of each column from averages of `statistics`, ``(..., D)``.

        Means of numbers, the most probable category, the median level.
        """
        parts = [
            group.first.estimate(average)
            for group, average in zip(self.groups, statistics, strict=True)
        ]
        return torch.cat(parts, dim=-1)[..., self.order]
