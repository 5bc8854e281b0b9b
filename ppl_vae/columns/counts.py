"""Columns of counts 0, 1, 2, ..."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_vae.columns.family import ColumnFamily, Source, initial, second_parameter
from ppl_vae.columns.positive import relative_mean
from ppl_vae.distributions import counts
from ppl_vae.distributions.scale import MIN_SCALE
from ppl_vae.errors import number


class Poisson(ColumnFamily):
    """x ~ Poisson(μ) with μ = mean · softplus(.) / log 2 of the network's output.

    Args:
        mean: a typical value, such as the mean of the observed ones.
    """

    constants: tuple[str, ...] = ("mean",)

    def __init__(self, mean: int | float = 1.0) -> None:
        super().__init__()
        self.mean = number(type(self).__name__, "mean", mean, above=0)

    @property
    def support(self) -> Constraint:
        """Whole numbers from 0 on."""
        return constraints.nonnegative_integer

    def distribution(self, outputs: Tensor, *, mean: Tensor) -> Any:
        """Return P(x | outputs)."""
        return counts.Poisson(relative_mean(outputs[..., 0], mean))

    def features(self, x: Tensor, *, mean: Tensor) -> Tensor:
        """Return log(1 + x) - log(1 + mean)."""
        return (x.log1p() - mean.log1p()).unsqueeze(-1)


class NegativeBinomial(ColumnFamily):
    """x ~ NB(μ, r), a Poisson with more variance, μ + μ² / r.

    μ = mean · softplus(.) / log 2 of the network's output, r = softplus(.) + 1e-4; see
    :class:`ppl_vae.likelihoods.NegativeBinomial`.

    Args:
        mean: a typical value, such as the mean of the observed ones.
        dispersion: r is a function of z (``"network"``), or one number for all rows
            (``"learned"``).
    """

    constants = ("mean",)
    dispersion: Source

    def __init__(self, mean: int | float = 1.0, dispersion: Source = "network") -> None:
        super().__init__()
        self.mean = number(type(self).__name__, "mean", mean, above=0)
        self._source("dispersion", dispersion)

    @property
    def num_outputs(self) -> int:
        """A mean, and a dispersion unless it is learned."""
        return 1 + (self.dispersion == "network")

    @property
    def support(self) -> Constraint:
        """Whole numbers from 0 on."""
        return constraints.nonnegative_integer

    def learned(self) -> dict[str, Tensor]:
        """Return the unconstrained dispersion, if it is learned."""
        return {"unconstrained_dispersion": initial()} if self.dispersion == "learned" else {}

    def distribution(
        self, outputs: Tensor, *, mean: Tensor, unconstrained_dispersion: Tensor | None = None
    ) -> Any:
        """Return P(x | outputs)."""
        r = second_parameter(outputs, unconstrained_dispersion, MIN_SCALE)
        return counts.NegativeBinomial(r, mean=relative_mean(outputs[..., 0], mean))

    def features(self, x: Tensor, *, mean: Tensor) -> Tensor:
        """Return log(1 + x) - log(1 + mean)."""
        return (x.log1p() - mean.log1p()).unsqueeze(-1)
