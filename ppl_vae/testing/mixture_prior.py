"""A Gaussian-mixture latent and an affine likelihood."""

import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, MixtureSameFamily

from ppl_vae.errors import flag, positive_int
from ppl_vae.testing import _gaussian
from ppl_vae.testing._gaussian import Data, Gaussian, LinearGaussianMixture, PerDatum
from ppl_vae.testing._modules import AffineNormal, Random
from ppl_vae.testing._oracle import PlateOptions
from ppl_vae.testing.linear_gaussian import AffineOracle, LatentGuide, LatentModel


class MixturePrior(nn.Module):
    """``sum_k pi_k N(loc_k, diag exp(log_scale_k)^2)``."""

    def __init__(self, latent_dim: int, num_components: int, random: Random):
        super().__init__()
        # About two scales apart: modes that a single Gaussian misses, with some overlap.
        self.loc = nn.Parameter(random.normal(num_components, latent_dim, scale=1.5))
        self.log_scale = nn.Parameter(random.normal(num_components, latent_dim, scale=0.2) - 0.3)
        self.logits = nn.Parameter(random.normal(num_components, scale=0.5))

    def forward(self) -> Distribution:
        """Return a Pyro distribution."""
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.logits),
            dist.Normal(self.loc, self.log_scale.exp()).to_event(1),
        )

    def log_density(self, value: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
        """``log p(value)`` in nats, by hand."""
        components = _gaussian.normal_log_density(
            value.unsqueeze(-2), self.loc, self.log_scale.exp()
        )
        return (self.logits.log_softmax(-1) + components).logsumexp(-1)

    def closed_form(self) -> Gaussian:
        """Return the components, as a batch."""
        return Gaussian(self.loc, torch.diag_embed(self.log_scale.exp() ** 2))


class MixturePriorLinearGaussian(AffineOracle):
    """A Gaussian-mixture prior and a linear-Gaussian likelihood, with an affine Gaussian guide::

        p(z) = sum_k pi_k N(m_k, diag s_k^2)    p(x | z) = N(W z + b, sigma^2 I)
        q(z | x) = N(A x + c, S)

    ``p(x) = sum_k pi_k N(W m_k + b, W diag(s_k^2) W^T + sigma^2 I)``, and the posterior is a
    mixture with the weights ``p(k | x)``. The KL from a Gaussian to a mixture has no closed form:
    `kl_to_prior` and `elbo` raise NotImplementedError, so that estimators which fall back to Monte
    Carlo are tested here. No Gaussian is the posterior: `set_exact_guide` raises.

    Sites: ``z``, ``x``. Options as in `Oracle`.
    """

    model: LatentModel[MixturePrior]
    guide: LatentGuide

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        num_components: int = 3,
        *,
        full_rank: bool = False,
        size: int | None = None,
        beta: float | None = None,
        mask: Bool[Tensor, " batch"] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ):
        owner = "MixturePriorLinearGaussian"
        data_dim = positive_int(owner, "data_dim", data_dim)
        latent_dim = positive_int(owner, "latent_dim", latent_dim)
        num_components = positive_int(owner, "num_components", num_components)
        full_rank = flag(owner, "full_rank", full_rank)
        random, options = Random(seed, dtype), PlateOptions(size, beta, mask)
        prior = MixturePrior(latent_dim, num_components, random)
        likelihood = AffineNormal.random(latent_dim, data_dim, random)
        single = _gaussian.moment_match(prior.logits.log_softmax(-1), prior.closed_form())
        near = likelihood.closed_form().reverse(single)
        posterior = AffineNormal.random_posterior(near, random, full_rank=full_rank)
        super().__init__(LatentModel(prior, likelihood, options), LatentGuide(posterior, options))

    def _closed_form(self) -> LinearGaussianMixture:
        prior = self.model.prior
        return LinearGaussianMixture(
            prior.logits.log_softmax(-1), prior.closed_form(), self.model.likelihood.closed_form()
        )

    def log_px(self, x: Data) -> PerDatum:
        """``log sum_k pi_k p_k(x)`` in nats per datum."""
        return self._closed_form().log_px(x)

    def posterior(self, x: Data) -> MixtureSameFamily:
        """``p(z | x)``, a mixture of Gaussians with full covariances."""
        return self._closed_form().posterior(x)

    def set_exact_guide(self) -> None:
        """Raise ValueError: the posterior is a mixture, the guide is not."""
        raise ValueError(
            "the posterior is a mixture of Gaussians, which no Gaussian guide contains"
        )
