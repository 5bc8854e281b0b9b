"""The algebra of linear-Gaussian models, by hand.

No density uses ``torch.distributions``, which the oracles are to check. The identities are those of
Bishop, *Pattern Recognition and Machine Learning* (PRML), sections 2.3.3 and 12.2.
"""

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import MixtureSameFamily, MultivariateNormal

Data = Float[Tensor, "batch dim"]
PerDatum = Float[Tensor, " batch"]
Latents = Float[Tensor, "*particles batch latent"]
PerParticle = Float[Tensor, "*particles batch"]

LOG_2PI = math.log(2 * math.pi)


def _require_same_event(value: Tensor, loc: Tensor) -> None:
    # (B, 1) against (B, D) broadcasts silently into a density of something else.
    if value.shape[-1] != loc.shape[-1]:
        raise ValueError(f"expected event size {loc.shape[-1]}, got event size {value.shape[-1]}")


def normal_log_density(
    value: Float[Tensor, "... n"], loc: Float[Tensor, "... n"], scale: Float[Tensor, "... #n"]
) -> Float[Tensor, "..."]:
    """``log N(value; loc, diag scale^2)`` in nats, summed over the last dimension."""
    _require_same_event(value, loc)
    terms = -0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * LOG_2PI
    return terms.sum(-1)


def tril_log_density(
    value: Float[Tensor, "... n"], loc: Float[Tensor, "... n"], scale_tril: Float[Tensor, "... n n"]
) -> Float[Tensor, "..."]:
    """``log N(value; loc, L L^T)`` in nats, for a lower triangular ``L``."""
    _require_same_event(value, loc)
    difference = (value - loc).unsqueeze(-1)
    white = torch.linalg.solve_triangular(scale_tril, difference, upper=False).squeeze(-1)
    log_determinant = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * white.square().sum(-1) - log_determinant - 0.5 * value.shape[-1] * LOG_2PI


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


@dataclass(frozen=True)
class Gaussian:
    """``N(loc, covariance)``; leading dimensions are a batch and broadcast."""

    loc: Float[Tensor, "... n"]
    covariance: Float[Tensor, "... n n"]

    def log_density(self, value: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
        """``log N(value; loc, covariance)`` in nats."""
        return tril_log_density(value, self.loc, torch.linalg.cholesky(self.covariance))

    def kl(self, other: "Gaussian") -> Float[Tensor, "..."]:
        """``KL(self || other)`` in nats:
        ``(tr(S2^-1 S1) + d^T S2^-1 d - n + log|S2| - log|S1|) / 2`` with ``d`` the mean shift.
        """
        shift = (self.loc - other.loc).unsqueeze(-1)
        quadratic = (shift.mT @ torch.linalg.solve(other.covariance, shift)).squeeze((-1, -2))
        trace = _trace(torch.linalg.solve(other.covariance, self.covariance))
        log_ratio = torch.linalg.slogdet(other.covariance)[1] - self.covariance.slogdet()[1]
        return 0.5 * (trace + quadratic - self.loc.shape[-1] + log_ratio)

    def distribution(self) -> MultivariateNormal:
        """Return a Pyro distribution."""
        return dist.MultivariateNormal(self.loc, covariance_matrix=self.covariance)


def moment_match(log_weights: Float[Tensor, " k"], components: Gaussian) -> Gaussian:
    """Return the Gaussian with the mean and covariance of a mixture over the batch dimension."""
    weights = log_weights.exp().unsqueeze(-1)
    loc = (weights * components.loc).sum(0)
    shift = components.loc - loc
    spread = components.covariance + shift.unsqueeze(-1) * shift.unsqueeze(-2)
    return Gaussian(loc, (weights.unsqueeze(-1) * spread).sum(0))


@dataclass(frozen=True)
class Affine:
    """The conditional ``y | c ~ N(weight c + bias, covariance)``; leading dimensions broadcast."""

    weight: Float[Tensor, "... n_out n_in"]
    bias: Float[Tensor, "... n_out"]
    covariance: Float[Tensor, "... n_out n_out"]

    def at(self, context: Float[Tensor, "... n_in"]) -> Gaussian:
        """``p(y | c)``."""
        return Gaussian(_apply(self.weight, context) + self.bias, self.covariance)

    def marginal(self, prior: Gaussian) -> Gaussian:
        """``p(y)`` when ``c ~ prior`` (PRML 2.115)."""
        spread = self.weight @ prior.covariance @ self.weight.mT
        return Gaussian(_apply(self.weight, prior.loc) + self.bias, spread + self.covariance)

    def reverse(self, prior: Gaussian) -> "Affine":
        """Bayes' rule: ``p(c | y)`` when ``c ~ prior``, again affine (PRML 2.116 and 2.117).

        With ``R`` the noise covariance and ``S`` the prior's, the posterior covariance is
        ``P = (S^-1 + W^T R^-1 W)^-1``, its mean ``P (W^T R^-1 (y - b) + S^-1 m)``.
        """
        information = torch.linalg.solve(self.covariance, self.weight).mT
        precision = torch.linalg.inv(prior.covariance)
        covariance = torch.linalg.inv(precision + information @ self.weight)
        covariance = 0.5 * (covariance + covariance.mT)  # inv() is symmetric to rounding only
        offset = _apply(precision, prior.loc) - _apply(information, self.bias)
        return Affine(covariance @ information, _apply(covariance, offset), covariance)

    def joint(self, prior: Gaussian) -> Gaussian:
        """``p(c, y)`` of the concatenation ``(c, y)`` when ``c ~ prior``."""
        marginal = self.marginal(prior)
        cross = self.weight @ prior.covariance
        top = torch.cat([prior.covariance, cross.mT], -1)
        bottom = torch.cat([cross, marginal.covariance], -1)
        return Gaussian(torch.cat([prior.loc, marginal.loc], -1), torch.cat([top, bottom], -2))

    def expected_log_density(
        self, value: Float[Tensor, "... n_out"], context: Gaussian
    ) -> Float[Tensor, "..."]:
        """``E_{c ~ context} log p(value | c)`` in nats.

        The density at the mean, less ``tr(R^-1 W S W^T) / 2`` for the context's covariance ``S``.
        """
        spread = self.weight @ context.covariance @ self.weight.mT
        penalty = 0.5 * _trace(torch.linalg.solve(self.covariance, spread))
        return self.at(context.loc).log_density(value) - penalty


@dataclass(frozen=True)
class LinearGaussianMixture:
    """``k ~ Cat(weights)``, ``z | k ~ prior_k``, ``x | z, k ~ likelihood_k``.

    The components are the last batch dimension of ``prior`` and ``likelihood``; a field without one
    is shared. Then ``p(x)`` and ``p(z | x)`` are Gaussian mixtures.
    """

    log_weights: Float[Tensor, " k"]
    prior: Gaussian
    likelihood: Affine

    def log_joint_label(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch k"]:
        """``log p(x, k)`` in nats."""
        return self.log_weights + self.likelihood.marginal(self.prior).log_density(x.unsqueeze(-2))

    def log_px(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        """``log p(x)`` in nats per datum."""
        return self.log_joint_label(x).logsumexp(-1)

    def posterior_given_label(self, x: Float[Tensor, "batch dim"]) -> Gaussian:
        """``p(z | x, k)``, with batch shape ``(batch, k)``."""
        return self.likelihood.reverse(self.prior).at(x.unsqueeze(-2))

    def posterior(self, x: Float[Tensor, "batch dim"]) -> MixtureSameFamily:
        """``p(z | x) = sum_k p(k | x) p(z | x, k)``."""
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.log_joint_label(x)),
            self.posterior_given_label(x).distribution(),
        )
