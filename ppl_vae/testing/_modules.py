"""Trainable Gaussians: each as a Pyro distribution, a density by hand and a closed form."""

import math

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.errors import describe, seed_of
from ppl_vae.testing._gaussian import Affine, Gaussian, normal_log_density, tril_log_density


class Random:
    """Random parameters from a seed, without the global generators."""

    def __init__(self, seed: int, dtype: torch.dtype):
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype must be a floating one of torch, got {describe(dtype)}")
        self.dtype = dtype
        self._generator = torch.Generator().manual_seed(seed_of("", seed))

    def normal(self, *shape: int, scale: float) -> Tensor:
        """Draw from N(0, scale^2)."""
        draws = torch.randn(*shape, generator=self._generator, dtype=self.dtype, device="cpu")
        return scale * draws


class NormalPrior(nn.Module):
    """``N(loc, diag exp(log_scale)^2)``; constants are buffers, the rest parameters."""

    loc: Tensor
    log_scale: Tensor

    def __init__(
        self, loc: Float[Tensor, " n"], log_scale: Float[Tensor, " n"], *, trainable: bool = True
    ):
        super().__init__()
        for name, value in (("loc", loc), ("log_scale", log_scale)):
            if trainable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    @classmethod
    def random(cls, dim: int, random: Random) -> "NormalPrior":
        """Return a prior close to N(0, I)."""
        return cls(random.normal(dim, scale=0.5), random.normal(dim, scale=0.2))

    @classmethod
    def standard(cls, dim: int, dtype: torch.dtype) -> "NormalPrior":
        """Return N(0, I) without parameters."""
        return cls(torch.zeros(dim, dtype=dtype), torch.zeros(dim, dtype=dtype), trainable=False)

    def forward(self) -> Distribution:
        """Return a Pyro distribution."""
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)

    def log_density(self, value: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
        """``log N(value; loc, scale^2)`` in nats, by hand."""
        return normal_log_density(value, self.loc, self.log_scale.exp())

    def closed_form(self) -> Gaussian:
        """Return the closed form."""
        return Gaussian(self.loc, torch.diag(self.log_scale.exp() ** 2))


class AffineNormal(nn.Module):
    """``y | c ~ N(weight c + bias, L L^T)``, ``L`` lower triangular with diagonal exp(log_scale).

    ``log_scale`` has one entry (isotropic) or one for each output; ``lower`` is the part of ``L``
    below its diagonal, None for a diagonal covariance. Several contexts are broadcast and
    concatenated, so that any may have enumeration and particle dimensions on the left.
    """

    lower: nn.Parameter | None

    def __init__(
        self,
        weight: Float[Tensor, "n_out n_in"],
        bias: Float[Tensor, " n_out"],
        log_scale: Float[Tensor, " #n_out"],
        lower: Float[Tensor, "n_out n_out"] | None = None,
    ):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.log_scale = nn.Parameter(log_scale)
        self.register_parameter("lower", None if lower is None else nn.Parameter(lower))

    @classmethod
    def random(
        cls, n_in: int, n_out: int, random: Random, *, isotropic: bool = True
    ) -> "AffineNormal":
        """Return one with outputs of scale about 1, and noise of scale about 0.9."""
        weight = random.normal(n_out, n_in, scale=1 / math.sqrt(n_in))
        log_scale = math.log(0.9) + random.normal(1 if isotropic else n_out, scale=0.1)
        return cls(weight, random.normal(n_out, scale=0.5), log_scale)

    @classmethod
    @torch.no_grad()
    def random_posterior(cls, target: Affine, random: Random, *, full_rank: bool) -> "AffineNormal":
        """Return one near ``target``, some tenths of a nat off per dimension and wider, so that
        importance weights have finite variance."""
        n_out, n_in = target.weight.shape
        scale = target.covariance.diagonal().sqrt()
        per_row = scale.unsqueeze(-1)
        weight = target.weight + per_row * random.normal(n_out, n_in, scale=0.4 / math.sqrt(n_in))
        bias = target.bias + scale * random.normal(n_out, scale=0.4)
        log_widening = math.log(1.25) + random.normal(n_out, scale=0.05)
        if not full_rank:
            return cls(weight, bias, scale.log() + log_widening)
        scale_tril = torch.linalg.cholesky(target.covariance)
        lower = 1.25 * scale_tril.tril(-1) + per_row * random.normal(n_out, n_out, scale=0.1)
        return cls(weight, bias, scale_tril.diagonal().log() + log_widening, lower.tril(-1))

    def _loc(self, contexts: tuple[Tensor, ...]) -> Tensor:
        leading = torch.broadcast_shapes(*(c.shape[:-1] for c in contexts))
        context = torch.cat([c.expand(*leading, c.shape[-1]) for c in contexts], -1)
        return nn.functional.linear(context, self.weight, self.bias)

    def _scale_tril(self, lower: Tensor) -> Tensor:
        # The parameter's diagonal and upper part are not used.
        return lower.tril(-1) + torch.diag(self.log_scale.exp())

    def forward(self, *contexts: Float[Tensor, "..."]) -> Distribution:
        """Return the conditional distribution."""
        loc = self._loc(contexts)
        if self.lower is None:
            return dist.Normal(loc, self.log_scale.exp()).to_event(1)
        return dist.MultivariateNormal(loc, scale_tril=self._scale_tril(self.lower))

    def log_density(
        self, value: Float[Tensor, "..."], *contexts: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """``log N(value; weight c + bias, L L^T)`` in nats, by hand."""
        loc = self._loc(contexts)
        if self.lower is None:
            return normal_log_density(value, loc, self.log_scale.exp())
        return tril_log_density(value, loc, self._scale_tril(self.lower))

    def closed_form(self) -> Affine:
        """Return the closed form, in the concatenation of the contexts."""
        if self.lower is None:
            covariance = torch.diag(self.log_scale.exp().expand_as(self.bias) ** 2)
        else:
            scale_tril = self._scale_tril(self.lower)
            covariance = scale_tril @ scale_tril.mT
        return Affine(self.weight, self.bias, covariance)

    @torch.no_grad()
    def assign(self, target: Affine) -> None:
        """Become ``target``, in place; ValueError if a diagonal covariance cannot."""
        off_diagonal = target.covariance - torch.diag(target.covariance.diagonal())
        # A diagonal target is off the diagonal by rounding of the inverse only.
        tolerance = 100 * torch.finfo(off_diagonal.dtype).eps * target.covariance.abs().max()
        if self.lower is None and off_diagonal.abs().max() > tolerance:
            raise ValueError("the exact posterior has a full covariance; use full_rank=True")
        scale_tril = torch.linalg.cholesky(target.covariance)
        self.weight.copy_(target.weight)
        self.bias.copy_(target.bias)
        self.log_scale.copy_(scale_tril.diagonal().log())
        if self.lower is not None:
            self.lower.copy_(scale_tril.tril(-1))
