"""One-hot codes in a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.infer.util import is_validation_enabled
from torch import Size, Tensor


class OneHotCodes(TorchDistribution):
    r"""P(z) = Π_d Σ_c z_dc softmax(logits_d)_c, D independent one-hot codes of C categories.

    z is the D codes one after the other, in floating point, event shape ``(D * C,)``. log P is
    Σ_dc z_dc log softmax(logits_d)_c, linear in z, which is also its derivative in z: that of
    draws with gradients (:mod:`ppl_vae.distributions.straight_through`).

    Args:
        logits: unnormalised log-probabilities, finite or, where validation is enabled, -∞ for
            impossible categories, shape ``(..., D, C)``; the batch shape is ``(...)``.
        validate_args: check logits and values; None is torch's global setting.

    Example:
        >>> OneHotCodes(torch.zeros(2, 4)).log_prob(torch.eye(4)[[1, 3]].flatten()).exp()
        tensor(0.0625)
    """

    arg_constraints = {  # noqa: RUF012  (as torch writes it)
        "logits": constraints.independent(constraints.real_vector, 1)
    }
    has_rsample = False

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits.log_softmax(-1)
        size = logits.shape[-2] * logits.shape[-1]
        super().__init__(logits.shape[:-2], Size([size]), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Rows of one-hot codes."""
        return one_hot_rows(self.logits.shape[-1])

    @property
    def probs(self) -> Tensor:
        """The probabilities, shape ``(..., D, C)``."""
        return self.logits.exp()

    def expand(
        self, batch_shape: Sequence[int], _instance: OneHotCodes | None = None
    ) -> OneHotCodes:
        """Return the distribution with its batch shape broadcast."""
        new = self._get_checked_instance(OneHotCodes, _instance)
        new.logits = self.logits.expand(*batch_shape, *self.logits.shape[-2:])
        super(OneHotCodes, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        logits = self.logits.flatten(-2)
        if not (is_validation_enabled() and logits.isinf().any()):
            return (value * logits).sum(-1)
        impossible = logits.isinf()  # 0 · -∞ is NaN
        log_p = (value * logits.masked_fill(impossible, 0.0)).sum(-1)
        return log_p.masked_fill((impossible & (value != 0)).any(-1), -math.inf)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw codes."""
        with torch.no_grad():
            noise = gumbel(self.logits, sample_shape)
            return one_hot_of_largest(self.logits + noise).flatten(-2)

    def entropy(self) -> Tensor:
        """Return -Σ_z P(z) log P(z), in nats."""
        return -(self.probs * self.logits.clamp(min=torch.finfo(self.logits.dtype).min)).sum(
            (-2, -1)
        )

    @property
    def mean(self) -> Tensor:
        """E[z], the probabilities of the categories."""
        return self.probs.flatten(-2)

    @property
    def variance(self) -> Tensor:
        """Var[z] of each entry."""
        return (self.probs * (1 - self.probs)).flatten(-2)


class _OneHotRows(constraints.Constraint):
    """Codes of C entries one after the other, each one-hot."""

    is_discrete = True
    event_dim = 1

    def __init__(self, categories: int) -> None:
        self.categories = categories
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Return for each row whether all its codes are one-hot."""
        codes = value.unflatten(-1, (-1, self.categories))
        binary = ((codes == 0) | (codes == 1)).flatten(-2).all(-1)
        return binary & (codes.sum(-1) == 1).all(-1)

    def __repr__(self) -> str:
        return f"one-hot codes of {self.categories} categories in a row"


@cache  # equal supports are one object, and values need not be checked against the other
def one_hot_rows(categories: int) -> constraints.Constraint:
    """Return the constraint that a row consists of one-hot codes of so many categories."""
    return _OneHotRows(categories)


def gumbel(like: Tensor, sample_shape: Sequence[int] = ()) -> Tensor:
    """Draw standard Gumbel noise, shape ``(*sample_shape, *like.shape)``."""
    return -(-uniform(like, sample_shape).log()).log()


def uniform(like: Tensor, sample_shape: Sequence[int] = ()) -> Tensor:
    """Draw from (0, 1), shape ``(*sample_shape, *like.shape)``; neither end comes up."""
    shape = (*sample_shape, *like.shape)
    eps = torch.finfo(like.dtype).eps
    return torch.rand(shape, dtype=like.dtype, device=like.device).clamp(eps, 1 - eps)


def one_hot_of_largest(values: Tensor) -> Tensor:
    """Return 1 at the largest of the last dimension and 0 elsewhere."""
    index = values.argmax(-1, keepdim=True)
    return torch.zeros_like(values).scatter(-1, index, 1.0)
