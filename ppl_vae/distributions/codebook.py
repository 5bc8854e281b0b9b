"""Vectors of a codebook."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions import Distribution

SAME = 1e-6
"""Relative distance below which two vectors are the same."""


class CodebookVectors(TorchDistribution):
    r"""P(z) = P(k) for D vectors z_d = c_{k_d} of a codebook c, with a distribution of the codes k.

    Values are mapped to the codes of the nearest vectors, without a gradient.

    Args:
        codes: of D one-hot codes of K categories, event shape ``(D * K,)``.
        codebook: c, shape ``(K, M)``; the event shape is ``(D * M,)``.
        validate_args: check that values are vectors of the codebook; None is torch's global
            setting.

    Example:
        >>> from ppl_vae.distributions.one_hot import OneHotCodes
        >>> p = CodebookVectors(OneHotCodes(torch.zeros(2, 3)), torch.randn(3, 5))
        >>> p.sample((7,)).shape
        torch.Size([7, 10])
    """

    arg_constraints: dict = {}  # noqa: RUF012  (as torch declares it)
    has_rsample = False

    def __init__(
        self, codes: Distribution, codebook: Tensor, validate_args: bool | None = None
    ) -> None:
        self.codes, self.codebook = codes, codebook.detach()
        k, m = codebook.shape
        size = codes.event_shape[-1] // k * m
        super().__init__(codes.batch_shape, Size([size]), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Rows of vectors of the codebook."""
        return _InCodebook(self.codebook)

    def expand(
        self, batch_shape: Sequence[int], _instance: CodebookVectors | None = None
    ) -> CodebookVectors:
        """Return the distribution with its batch shape broadcast."""
        new = self._get_checked_instance(CodebookVectors, _instance)
        new.codes, new.codebook = self.codes.expand(Size(batch_shape)), self.codebook
        shape = new.codes.batch_shape
        super(CodebookVectors, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def codes_of(self, value: Tensor) -> Tensor:
        """Return the one-hot codes of the nearest vectors, shape ``(..., D * K)``."""
        k, m = self.codebook.shape
        index = nearest(value.unflatten(-1, (-1, m)), self.codebook)
        codes = self.codebook.new_zeros(*index.shape, k)
        return codes.scatter(-1, index.unsqueeze(-1), 1.0).flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(k) of the codes k of a value, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self.codes.log_prob(self.codes_of(value))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw codes, and return their vectors."""
        with torch.no_grad():
            codes = self.codes.sample(Size(sample_shape))
            index = codes.unflatten(-1, (-1, len(self.codebook))).argmax(-1)
            return self.codebook[index].flatten(-2)

    @property
    def mean(self) -> Tensor:
        """E[z], the codebook averaged."""
        codes = self.codes.mean.unflatten(-1, (-1, len(self.codebook)))
        return (codes @ self.codebook).flatten(-2)


class _InCodebook(constraints.Constraint):
    """Vectors of a codebook one after the other."""

    is_discrete = True
    event_dim = 1

    def __init__(self, codebook: Tensor) -> None:
        self.codebook = codebook
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Return for each row whether all its vectors are in the codebook."""
        vectors = value.unflatten(-1, (-1, self.codebook.shape[-1]))
        found = self.codebook[nearest(vectors, self.codebook)]
        off = (vectors - found).square().sum(-1)
        return (off <= SAME**2 * found.square().sum(-1)).all(-1)

    def __repr__(self) -> str:
        return f"vectors of a codebook of {len(self.codebook)} in a row"


@torch.no_grad()
def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return for vectors ``(..., M)`` the index of the nearest in a codebook ``(K, M)``.

    argmin_j ‖c_j‖² - 2 v·c_j is one matrix product, in float64, in which vectors of the codebook
    find themselves, but for others that agree with them to ``SAME``.
    """
    dtype = torch.float32 if vectors.device.type == "mps" else torch.float64  # which mps lacks
    v, c = vectors.detach().to(dtype), codebook.detach().to(dtype)
    return (c.square().sum(-1) - 2 * v @ c.mT).argmin(-1)
