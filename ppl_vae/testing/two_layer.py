"""Two latent layers, each affine in the one above."""

import pyro
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import MultivariateNormal

from ppl_vae.errors import positive_int
from ppl_vae.testing._gaussian import Affine, Data, Gaussian, PerDatum, PerParticle
from ppl_vae.testing._modules import AffineNormal, NormalPrior, Random
from ppl_vae.testing._oracle import Oracle, PlateOptions, Program


class TwoLayerModel(Program):
    """``z2 ~ prior()``, ``z1 ~ transition(z2)``, ``x ~ likelihood(z1)``."""

    def __init__(
        self,
        prior: NormalPrior,
        transition: AffineNormal,
        likelihood: AffineNormal,
        options: PlateOptions,
    ):
        super().__init__(options)
        self.prior = prior
        self.transition = transition
        self.likelihood = likelihood

    def forward(self, x: Data) -> None:
        """Run the model: sites z2, z1 and x."""
        with self.data_plate(x):
            with self.latents():
                z2 = pyro.sample("z2", self.prior())
                z1 = pyro.sample("z1", self.transition(z2))
            pyro.sample("x", self.likelihood(z1), obs=x)

    def prior_z1(self) -> Gaussian:
        """``p(z1)``."""
        return self.transition.closed_form().marginal(self.prior.closed_form())

    def exact_posterior(self) -> tuple[Affine, Affine]:
        """``p(z1 | x)`` and ``p(z2 | z1)``; the second is also a factor of the prior."""
        return (
            self.likelihood.closed_form().reverse(self.prior_z1()),
            self.transition.closed_form().reverse(self.prior.closed_form()),
        )


class TwoLayerGuide(Program):
    """``z1 ~ posterior1(x)``, ``z2 ~ posterior2(z1)``."""

    def __init__(self, posterior1: AffineNormal, posterior2: AffineNormal, options: PlateOptions):
        super().__init__(options)
        self.posterior1 = posterior1
        self.posterior2 = posterior2

    def forward(self, x: Data) -> None:
        """Run the guide: sites z1 and z2."""
        with self.data_plate(x), self.latents():
            z1 = pyro.sample("z1", self.posterior1(x))
            pyro.sample("z2", self.posterior2(z1))


class TwoLayerLinearGaussian(Oracle):
    """A hierarchy of two Gaussian latents, with a guide that goes up it::

        p(z2) = N(0, I)    p(z1 | z2) = N(V z2 + d, diag t^2)    p(x | z1) = N(W z1 + b, sigma^2 I)
        q(z1 | x) = N(A x + c, S1)    q(z2 | z1) = N(B z1 + e, S2)

    Given z1, z2 does not depend on x, so the posterior factorises as the guide, which, always of
    full rank, contains it. The density of z2 depends on the parameters of q(z1 | x) through z1:
    sticking the landing and DReG are wrong here if gradients are stopped site by site.

    Sites: ``z2``, ``z1``, ``x``. Options as in `Oracle`.
    """

    model: TwoLayerModel
    guide: TwoLayerGuide

    def __init__(
        self,
        data_dim: int,
        z1_dim: int,
        z2_dim: int,
        *,
        size: int | None = None,
        beta: float | None = None,
        mask: Bool[Tensor, " batch"] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ):
        owner = "TwoLayerLinearGaussian"
        data_dim = positive_int(owner, "data_dim", data_dim)
        z1_dim = positive_int(owner, "z1_dim", z1_dim)
        z2_dim = positive_int(owner, "z2_dim", z2_dim)
        random, options = Random(seed, dtype), PlateOptions(size, beta, mask)
        model = TwoLayerModel(
            NormalPrior.standard(z2_dim, dtype),
            AffineNormal.random(z2_dim, z1_dim, random, isotropic=False),
            AffineNormal.random(z1_dim, data_dim, random),
            options,
        )
        posterior1, posterior2 = (
            AffineNormal.random_posterior(exact, random, full_rank=True)
            for exact in model.exact_posterior()
        )
        guide = TwoLayerGuide(posterior1, posterior2, options)
        super().__init__(model, guide)

    def log_px(self, x: Data) -> PerDatum:
        """``log N(x; W d + b, W (V V^T + diag t^2) W^T + sigma^2 I)`` in nats per datum."""
        return self.model.likelihood.closed_form().marginal(self.model.prior_z1()).log_density(x)

    def posterior(self, x: Data) -> MultivariateNormal:
        """``p(z1, z2 | x)``, of the concatenation (z1, z2)."""
        z1, z2 = self.model.exact_posterior()
        return z2.joint(z1.at(x)).distribution()

    def expected_log_likelihood(self, x: Data) -> PerDatum:
        """``E_q(z1 | x) log p(x | z1)`` in nats per datum."""
        guide = self.guide.posterior1.closed_form().at(x)
        return self.model.likelihood.closed_form().expected_log_density(x, guide)

    def kl_to_prior(self, x: Data) -> PerDatum:
        """``KL(q(z1, z2 | x) || p(z1, z2))`` in nats per datum, without beta."""
        z1, z2 = self.guide.posterior1.closed_form(), self.guide.posterior2.closed_form()
        # The prior as p(z1) p(z2 | z1), so that both joints are of (z1, z2).
        prior = self.model.exact_posterior()[1].joint(self.model.prior_z1())
        return z2.joint(z1.at(x)).kl(prior)

    def set_exact_guide(self) -> None:
        """Make q(z1 | x) q(z2 | z1) the posterior."""
        z1, z2 = self.model.exact_posterior()
        self.guide.posterior1.assign(z1)
        self.guide.posterior2.assign(z2)

    def _log_prior(self, z1: Tensor, z2: Tensor) -> Tensor:
        return self.model.prior.log_density(z2) + self.model.transition.log_density(z1, z2)

    def log_joint(
        self,
        x: Data,
        *,
        z1: Float[Tensor, "*particles batch latent1"],
        z2: Float[Tensor, "*particles batch latent2"],
    ) -> PerParticle:
        """``log p(x, z1, z2)`` in nats per datum, not weighted by beta."""
        return self.model.likelihood.log_density(x, z1) + self._log_prior(z1, z2)

    def log_weight(
        self,
        x: Data,
        *,
        z1: Float[Tensor, "*particles batch latent1"],
        z2: Float[Tensor, "*particles batch latent2"],
    ) -> PerParticle:
        """``log p(x|z1) + beta (log p(z1|z2) p(z2) - log q(z1|x) q(z2|z1))`` in nats per datum."""
        log_q1 = self.guide.posterior1.log_density(z1, x)
        log_q2 = self.guide.posterior2.log_density(z2, z1)
        kl_term = self._log_prior(z1, z2) - log_q1 - log_q2
        return self.model.likelihood.log_density(x, z1) + self.beta * kl_term
