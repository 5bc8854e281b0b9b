"""Columns of counts 0, 1, 2, ..."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_vae.columns.family import ColumnFamily, Source, initial
from ppl_vae.columns.positive import relative_mean
from ppl_vae.distributions import counts
from ppl_vae.distributions.scale import positive_scale
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

    μ = mean · softplus(.) / log 2 and r = softplus(.) + 1e-4 of the network's outputs, a learned
    r is exp(.); see :class:`ppl_vae.likelihoods.NegativeBinomial`.

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
        """Return the logarithm of the dispersion, if it is learned."""
        return {"log_dispersion": initial()} if self.dispersion == "learned" else {}

    def distribution(
        self, outputs: Tensor, *, mean: Tensor, log_dispersion: Tensor | None = None
    ) -> Any:
        """Return P(x | outputs)."""
        learned = None if log_dispersion is None else log_dispersion.exp()
        r = positive_scale(outputs[..., 1]) if learned is None else learned
        return counts.NegativeBinomial(r, mean=relative_mean(outputs[..., 0], mean))

    def features(self, x: Tensor, *, mean: Tensor) -> Tensor:
        """Return log(1 + x) - log(1 + mean)."""
        return (x.log1p() - mean.log1p()).unsqueeze(-1)
