"""The continuous Bernoulli distribution, accurate for every logit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints


class _Finite(constraints.Constraint):
    """Finite numbers: an infinite logit has no density, but all mass at 0 or 1."""

    def check(self, value: Tensor) -> Tensor:
        """Return which values are finite."""
        return value.isfinite()


_FINITE = _Finite()


class ContinuousBernoulli(TorchDistribution):
    r"""p(x; λ) ∝ sigmoid(λ)^x (1 - sigmoid(λ))^{1-x} on [0, 1], for a logit λ.

    Normalised, log p(x; λ) = λx - log[(e^λ - 1) / λ]: an exponential family with parameter λ.

    Source: Loaiza-Ganem & Cunningham 2019 (arXiv 1907.06845), equations 5 to 8.

    torch's class of this name normalises by a clamped probability: beyond |λ| ≈ 16 in float32 (36
    in float64), where decoders put the background of an image, its density does not integrate to 1
    (but to 0.32 at λ = 50); its variance is wrong near λ = 0 in float32. Here value, gradient and
    moments are accurate for all logits.

    Args:
        logits: λ, any shape, which is the batch shape.
        validate_args: check logits and values; None is torch's global setting.
    """

    arg_constraints = {"logits": _FINITE}  # noqa: RUF012  (as torch writes it)
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: ContinuousBernoulli | None = None
    ) -> ContinuousBernoulli:
        """Return the distribution with its batch shape broadcast."""
        new = self._get_checked_instance(ContinuousBernoulli, _instance)
        new.logits = self.logits.expand(batch_shape)
        super(ContinuousBernoulli, new).__init__(new.logits.shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        small, size = self._magnitude()
        # With a = |λ|, log[(e^λ - 1) / λ] = max(λ, 0) + log[(1 - e^{-a}) / a] cannot overflow,
        # and (x - 1)λ is exact for x near 1.
        far = torch.where(self.logits > 0, value - 1, value) * self.logits
        far = far - torch.log(-torch.expm1(-size) / size)
        # Near 0 the gradient of that form, 1/a - 1/(e^a - 1), cancels.
        near = (value - 0.5) * self.logits - _even_series(_LOG, self.logits)
        return torch.where(small, near, far)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw by inverting the cumulative distribution function."""
        with torch.no_grad():
            size = self.logits.abs().clamp(min=1e-20)  # where the inverse is u
            u = torch.rand(
                self._extended_shape(torch.Size(sample_shape)), dtype=size.dtype, device=size.device
            )
            x = (-torch.log1p(u * torch.expm1(-size)) / size).clamp(0, 1)
            return torch.where(self.logits > 0, 1 - x, x)

    @property
    def mean(self) -> Tensor:
        """E[x] = 1 / (1 - e^{-λ}) - 1 / λ."""
        small, size = self._magnitude()
        # 1 / (e^a - 1), written so that neither it nor its gradient overflows.
        far = 1 / size + torch.exp(-size) / torch.expm1(-size)
        far = torch.where(self.logits > 0, 1 - far, far)
        return torch.where(small, 0.5 + self.logits * _even_series(_MEAN, self.logits), far)

    @property
    def variance(self) -> Tensor:
        """Var[x] = 1 / λ² - 1 / (4 sinh²(λ/2))."""
        small, size = self._magnitude()
        # 4 sinh²(a/2) = e^a (1 - e^{-a})², written so that nothing overflows.
        far = 1 / size.square() - torch.exp(-size) / torch.expm1(-size).square()
        return torch.where(small, _even_series(_VARIANCE, self.logits), far)

    def _magnitude(self) -> tuple[Tensor, Tensor]:
        """Return where |λ| is small, and |λ| (1 there, so that no branch has a NaN)."""
        size = self.logits.abs()
        small = size < 0.5
        return small, torch.where(small, 1.0, size)


# log[sinh(λ/2) / (λ/2)] = Σ_n B_2n λ^2n / (2n (2n)!), with Bernoulli numbers B; its first
# derivative is the mean - 1/2 (here divided by λ), its second the variance. The remainder is below
# 1e-16 for |λ| < 1/2.
_COEFFICIENTS = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600, -691 / 15692092416000)
_LOG = (0.0, *_COEFFICIENTS)
_MEAN = tuple(2 * n * c for n, c in enumerate(_COEFFICIENTS, 1))
_VARIANCE = tuple((2 * n - 1) * c for n, c in enumerate(_MEAN, 1))


def _even_series(coefficients: tuple[float, ...], logits: Tensor) -> Tensor:
    """Return Σ_n c_n λ^2n, by Horner's rule, where |λ| is small."""
    square = logits.square().clamp(max=0.25)
    total = torch.full_like(square, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * square + c
    return total
