"""A Gaussian latent and an affine likelihood: probabilistic PCA with a general prior."""

from typing import Generic, TypeVar

import pyro
import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ppl_vae.errors import flag, positive_int
from ppl_vae.testing._gaussian import Affine, Data, Latents, PerDatum, PerParticle
from ppl_vae.testing._modules import AffineNormal, NormalPrior, Random
from ppl_vae.testing._oracle import Oracle, PlateOptions, Program

Prior = TypeVar("Prior", bound=nn.Module)


class LatentModel(Program, Generic[Prior]):
    """``z ~ prior()``, ``x ~ likelihood(z)``."""

    def __init__(self, prior: Prior, likelihood: AffineNormal, options: PlateOptions):
        super().__init__(options)
        self.prior = prior
        self.likelihood = likelihood

    def forward(self, x: Data) -> None:
        """Run the model: sites z and x."""
        with self.data_plate(x):
            with self.latents():
                z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)


class LatentGuide(Program):
    """``z ~ posterior(x)``."""

    def __init__(self, posterior: AffineNormal, options: PlateOptions):
        super().__init__(options)
        self.posterior = posterior

    def forward(self, x: Data) -> None:
        """Run the guide: site z."""
        with self.data_plate(x), self.latents():
            pyro.sample("z", self.posterior(x))


class AffineOracle(Oracle):
    """An affine likelihood of z and an affine Gaussian guide, under any prior."""

    model: LatentModel
    guide: LatentGuide

    def expected_log_likelihood(self, x: Data) -> PerDatum:
        """``log N(x; W mu + b, sigma^2 I) - tr(W S W^T) / (2 sigma^2)`` with ``mu = A x + c``."""
        guide = self.guide.posterior.closed_form().at(x)
        return self.model.likelihood.closed_form().expected_log_density(x, guide)

    def log_joint(self, x: Data, *, z: Latents) -> PerParticle:
        """``log p(x, z)`` in nats per datum, not weighted by beta."""
        return self.model.likelihood.log_density(x, z) + self.model.prior.log_density(z)

    def log_weight(self, x: Data, *, z: Latents) -> PerParticle:
        """``log p(x | z) + beta (log p(z) - log q(z | x))`` in nats per datum."""
        kl_term = self.model.prior.log_density(z) - self.guide.posterior.log_density(z, x)
        return self.model.likelihood.log_density(x, z) + self.beta * kl_term


class LinearGaussian(AffineOracle):
    """The linear-Gaussian model, with an affine Gaussian guide::

        p(z) = N(m, diag s^2)    p(x | z) = N(W z + b, sigma^2 I)    q(z | x) = N(A x + c, S)

    ``p(x) = N(W m + b, W diag(s^2) W^T + sigma^2 I)``, and the posterior is affine in x (PRML,
    section 12.2 for m = 0 and s = 1; 2.3.3 in general). The guide contains the posterior if
    ``full_rank``, or if its covariance is diagonal (one latent dimension, or orthogonal columns of
    W).

    Sites: ``z``, ``x``. Options as in `Oracle`.
    """

    model: LatentModel[NormalPrior]
    guide: LatentGuide

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        *,
        full_rank: bool = False,
        size: int | None = None,
        beta: float | None = None,
        mask: Bool[Tensor, " batch"] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ):
        data_dim = positive_int("LinearGaussian", "data_dim", data_dim)
        latent_dim = positive_int("LinearGaussian", "latent_dim", latent_dim)
        full_rank = flag("LinearGaussian", "full_rank", full_rank)
        random, options = Random(seed, dtype), PlateOptions(size, beta, mask)
        prior = NormalPrior.random(latent_dim, random)
        likelihood = AffineNormal.random(latent_dim, data_dim, random)
        exact = likelihood.closed_form().reverse(prior.closed_form())
        posterior = AffineNormal.random_posterior(exact, random, full_rank=full_rank)
        super().__init__(LatentModel(prior, likelihood, options), LatentGuide(posterior, options))

    def _exact_posterior(self) -> Affine:
        return self.model.likelihood.closed_form().reverse(self.model.prior.closed_form())

    def log_px(self, x: Data) -> PerDatum:
        """``log N(x; W m + b, W diag(s^2) W^T + sigma^2 I)`` in nats per datum (PRML 12.35)."""
        prior = self.model.prior.closed_form()
        return self.model.likelihood.closed_form().marginal(prior).log_density(x)

    def posterior(self, x: Data) -> MultivariateNormal:
        """``p(z | x)`` (PRML 12.42 for m = 0 and s = 1)."""
        return self._exact_posterior().at(x).distribution()

    def kl_to_prior(self, x: Data) -> PerDatum:
        """``KL(q(z | x) || p(z))`` in nats per datum, without beta."""
        return self.guide.posterior.closed_form().at(x).kl(self.model.prior.closed_form())

    def set_exact_guide(self) -> None:
        """Make q(z | x) the posterior; ValueError if a diagonal guide does not contain it."""
        self.guide.posterior.assign(self._exact_posterior())
