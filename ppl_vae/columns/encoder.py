"""What networks see of a row of a table."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ppl_vae.columns.group import Families, Group, checked_columns, grouped
from ppl_vae.conditional import concatenate
from ppl_vae.constructor import Constructed
from ppl_vae.errors import describe, number


class Encoder(Constructed):
    r"""A network of the rows of a table: net(features of the observed cells, which are observed).

    ``(..., D) -> (..., out)``. Each column's `features` (standardised numbers, logs, categories
    one-hot) are computed, set to zero where a cell is missing (NaN), and followed by D numbers: 1
    where a cell is observed, 0 where not. They are input of the guide alone, and no part of any
    density.

    In training mode, with ``cell_dropout`` r, each row draws a probability s ~ U(0, r), and each of
    its observed cells is hidden from the network with probability s. The likelihood still scores
    them, and a bound whose guide ignores some of the data bounds the same log p(x): the guide
    learns rows of which less is observed than of those in the training data. A VampPrior that
    shares the network hides cells of its pseudo-inputs too. Ivanov et al. 2019 (arXiv 1806.02382)
    train with random masks likewise, to condition on any subset later.

    Args:
        net: any module ``(..., num_features(columns)) -> (..., out)``.
        columns: one for each column of x, usually those of :class:`ppl_vae.likelihoods.Columns`.
        cell_dropout: the largest probability r of hiding an observed cell in training, 0 to 1.

    Example:
        >>> from ppl_vae import columns, nets
        >>> table = [columns.Normal(mean=170.0, std=10.0), columns.Categorical(3)]
        >>> encoder = columns.Encoder(nets.MLP(columns.num_features(table), 8), table)
        >>> encoder(torch.tensor([[180.0, 2.0], [torch.nan, 1.0]])).shape
        torch.Size([2, 8])
    """

    reads_missing: ClassVar[bool] = True
    """Missing cells come as NaN."""

    def __init__(
        self, net: nn.Module, columns: Families, *, cell_dropout: int | float = 0.0
    ) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"Encoder: net must be a torch.nn.Module, got {describe(net)}")
        self.net = net
        self.cell_dropout = number("Encoder", "cell_dropout", cell_dropout, least=0, most=1)
        self.columns = nn.ModuleList(checked_columns("Encoder", columns))
        self.groups = grouped(tuple(self.columns), learned=False)  # type: ignore[arg-type]
        filling = torch.tensor([c.filling for c in columns], dtype=torch.float64)
        self.register_buffer("filling", filling.to(torch.get_default_dtype()), persistent=False)

    filling: Tensor

    def features(self, x: Tensor) -> Tensor:
        """Return the network's input for rows ``(..., D)``, NaN where a cell is missing."""
        if x.shape[-1:] != (len(self.columns),):
            raise ValueError(
                f"Encoder: expected an input of shape (..., {len(self.columns)}), a number for "
                f"each column, got {tuple(x.shape)}"
            )
        observed = ~x.isnan()
        if self.training and self.cell_dropout:
            share = self.cell_dropout * torch.rand_like(x[..., :1])
            observed = observed & (torch.rand_like(x) >= share)
        x = torch.where(observed, x, self.filling)
        parts = [self._of_group(group, x, observed) for group in self.groups]
        return torch.cat([*parts, observed.to(x.dtype)], dim=-1)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return the network's output, shape ``(..., out)``; context follows the features."""
        return self.net(concatenate(self.features(x), *context))

    @staticmethod
    def _of_group(group: Group, x: Tensor, observed: Tensor) -> Tensor:
        values = x[..., group.indices]
        features = group.first.features(values, **group.constants())
        seen = observed[..., group.indices].unsqueeze(-1)
        return torch.where(seen, features, 0.0).flatten(-2)


def num_features(columns: Families) -> int:
    """Return the number of inputs of an encoder's network: features, and which are observed."""
    return sum(c.num_features for c in checked_columns("num_features", columns)) + len(columns)
