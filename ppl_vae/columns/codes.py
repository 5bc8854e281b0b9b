"""Columns of categories and levels, as codes 0, 1, ..."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_vae.columns.family import MIN_SCALE, ColumnFamily, Source, second_parameter
from ppl_vae.distributions.bernoulli import bernoulli
from ppl_vae.distributions.codes import Codes, cumulative_logits
from ppl_vae.distributions.scale import inverse_softplus, positive_scale
from ppl_vae.errors import integer, positive_int


class Bernoulli(ColumnFamily):
    """x ~ Bernoulli(sigmoid(.)), for x = 0 or 1."""

    @property
    def support(self) -> Constraint:
        """0 and 1."""
        return constraints.boolean

    def distribution(self, outputs: Tensor) -> Any:
        """Return P(x | outputs)."""
        return bernoulli(outputs[..., 0])

    def estimate(self, statistics: Tensor) -> Tensor:
        """Return the more probable value."""
        return (statistics[..., 0] > 0.5).to(statistics)


class Categorical(ColumnFamily):
    """P(x = k) = softmax(.)_k, for codes k = 0, ..., categories - 1.

    Args:
        categories: how many there are; with one, all rows have it.
    """

    def __init__(self, categories: int) -> None:
        super().__init__()
        self.categories = positive_int("Categorical", "categories", categories)

    @property
    def num_outputs(self) -> int:
        """A logit for each category."""
        return self.categories

    @property
    def num_features(self) -> int:
        """One for each category."""
        return self.categories

    @property
    def support(self) -> Constraint:
        """The codes."""
        return constraints.integer_interval(0, self.categories - 1)

    def distribution(self, outputs: Tensor) -> Any:
        """Return P(x | outputs)."""
        return Codes(outputs)

    def features(self, x: Tensor) -> Tensor:
        """Return the code as a one-hot vector."""
        codes = torch.arange(self.categories, dtype=x.dtype, device=x.device)
        return (x.unsqueeze(-1) == codes).to(x.dtype)  # one_hot looks at values, graphs cannot

    def statistics(self, p: Any) -> Tensor:
        """Return the probabilities of the categories."""
        return p.probs

    def estimate(self, statistics: Tensor) -> Tensor:
        """Return the most probable category."""
        return statistics.argmax(-1).to(statistics)


class Ordinal(ColumnFamily):
    r"""P(x ≤ k) = sigmoid((θ_k - l) / s), for ordered codes k = 0, ..., levels - 1.

    The cumulative logit model with a location l from the network and thresholds
    θ_0 < ... < θ_{levels-2}, learned, the same for all rows.

    Source: McCullagh 1980, "Regression models for ordinal data", equations 2.1 and 6.1.

    Args:
        levels: how many there are.
        scale: s = softplus(.) + min_scale is a function of z (``"network"``), or 1 for all rows
            (``"learned"``: the thresholds have a scale).
    """

    scale: Source

    def __init__(self, levels: int, scale: Source = "network") -> None:
        super().__init__()
        self.levels = integer("Ordinal", "levels", levels, 2)
        self._source("scale", scale)

    @property
    def num_outputs(self) -> int:
        """A location, and a scale unless it is learned."""
        return 1 + (self.scale == "network")

    @property
    def support(self) -> Constraint:
        """The codes."""
        return constraints.integer_interval(0, self.levels - 1)

    def learned(self) -> dict[str, Tensor]:
        """Return θ_0 and the unconstrained gaps, for which all levels are as probable."""
        k = torch.arange(1, self.levels, dtype=torch.float64)
        thresholds = (k / (self.levels - k)).log()
        # Of thousands of levels, those in the middle are closer than the least gap.
        gaps = inverse_softplus((thresholds.diff() - _MIN_GAP).clamp(min=1e-3 * _MIN_GAP))
        return {"thresholds": torch.cat([thresholds[:1], gaps]).float()}

    def distribution(self, outputs: Tensor, *, thresholds: Tensor) -> Any:
        """Return P(x | outputs)."""
        gaps = positive_scale(thresholds[..., 1:], _MIN_GAP)
        theta = torch.cat([thresholds[..., :1], gaps], dim=-1).cumsum(-1)
        location = outputs[..., 0]
        if self.scale == "network":
            scale = second_parameter(outputs, None, MIN_SCALE)
            theta, location = theta / scale.unsqueeze(-1), location / scale
        return Codes(cumulative_logits(location, theta))

    def features(self, x: Tensor) -> Tensor:
        """Return the code on [-1, 1]."""
        return (2 * x / (self.levels - 1) - 1).unsqueeze(-1)

    def statistics(self, p: Any) -> Tensor:
        """Return P(x ≤ k)."""
        return p.probs.cumsum(-1)

    def estimate(self, statistics: Tensor) -> Tensor:
        """Return the median."""
        return (statistics[..., :-1] < 0.5).sum(-1).to(statistics)


_MIN_GAP = 1e-3
