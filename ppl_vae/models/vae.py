"""The variational autoencoder."""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from ppl_vae.errors import positive_int
from ppl_vae.models.methods import Data, Draws, Latents, dataset_method, inference_method
from ppl_vae.models.missingness import check_missingness, sample_mask, sample_missing
from ppl_vae.models.observation import Observation
from ppl_vae.models.pair import Pair, check_same_posterior, draw_or_mean, mean_of
from ppl_vae.models.plate import data_plate
from ppl_vae.models.shapes import checked_observation
from ppl_vae.models.training_terms import sample_latent
from ppl_vae.registration import register


class VAE(Pair):
    r"""The variational autoencoder: p(z) p(x | z), with the guide q(z | x).

    Source: Kingma & Welling 2014 (arXiv 1312.6114); Rezende et al. 2014 (arXiv 1401.4082).

    **Values that are not missing at random.** With ``missingness``, p(m | x), whether an entry is
    observed depends on x, the missing values included. The mask is then observed too, as a site
    ``mask``, and the missing entries are latents, a site ``x_missing`` with the guide
    q(x_missing | z) = p(x_missing | z):

        log p(x_observed, m) ≥ E log (1/K) Σ_k p(z_k) p(x_observed | z_k) p(m | x_observed,
            x_missing,k) / q(z_k | x_observed)

    They are drawn by reparameterisation, so the likelihood must be continuous. Bounds, and
    `evaluation.log_likelihood`, are of log p(x_observed, m); `impute` weighs with p(m | x).

    Source: Ipsen et al. 2021, "not-MIWAE" (arXiv 2006.12871), equations 6 to 9.

    Args:
        prior: p(z), from :mod:`ppl_vae.priors`.
        posterior: q(z | x), from :mod:`ppl_vae.posteriors`.
        likelihood: p(x | z), from :mod:`ppl_vae.likelihoods`.
        missingness: p(m | x), such as ``likelihoods.Bernoulli(nets.SelfMasking(D))``: the
            probability that an entry is observed, given all of x; None if values are missing at
            random, which then needs no model.

    Any module that returns a ``pyro.distributions`` object can be a part. A posterior's may have
    ``training_terms``, losses by name of its batch shape, as ``posteriors.VectorQuantised`` has
    them: each is a site of the guide, in what is minimised and in nothing that is evaluated.

    Raises TypeError for any other part, and ValueError if the shapes of the parts disagree.

    Example:
        >>> from ppl_vae import likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(10),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(784, 2 * 10)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(10, 784)),
        ... )
        >>> vae.generate(3).shape
        torch.Size([3, 784])
    """

    model: VAEModel
    guide: VAEGuide

    def __init__(
        self,
        *,
        prior: nn.Module,
        posterior: nn.Module,
        likelihood: nn.Module,
        missingness: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_same_posterior("VAE", prior, posterior)
        observation = checked_observation("VAE", prior, posterior, likelihood)
        if missingness is not None:
            check_missingness("VAE", missingness, likelihood, observation)
        self.model = VAEModel(prior, likelihood, observation, missingness)
        self.guide = VAEGuide(posterior, observation, None if missingness is None else likelihood)

    @property
    def missingness(self) -> nn.Module | None:
        """``missingness(x)`` is p(m | x); None if values are missing at random."""
        return self.model.missingness

    @inference_method
    def generate(self, n: int, *, mean: bool = False) -> Draws:
        """Draw n data: z ~ p(z), then x ~ p(x | z), or E[x | z] with ``mean``."""
        n = positive_int("generate", "n", n)
        return draw_or_mean(self.observation, self.likelihood(self.prior().sample((n,))), mean)

    @dataset_method
    def encode(self, x: Data, *, mask: Tensor | None = None) -> Latents:
        """Return the posterior mean E_q(z|x)[z]; for a flow the mean of 100 draws."""
        return mean_of(self.posterior(self.observation.guide_input(x, mask)))

    @inference_method
    def decode(self, z: Latents) -> Data:
        """Return E[x | z]."""
        return self.observation.mean_of("decode", self.likelihood(z))

    @dataset_method
    def reconstruct(self, x: Data, *, mask: Tensor | None = None) -> Data:
        """Return E[x' | z] at one draw z ~ q(z | x)."""
        q_z = self.posterior(self.observation.guide_input(x, mask))
        return self.observation.mean_of("reconstruct", self.likelihood(q_z.sample()))


class VAEModel(nn.Module):
    """The generative program: z ~ p(z), x ~ p(x | z), and m ~ p(m | x)."""

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        observation: Observation,
        missingness: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood
        self.observation = observation
        self.missingness = missingness

    def forward(
        self, x: Tensor | None = None, *, mask: Tensor | None = None, size: int | None = None
    ) -> None:
        """Run the program on a batch x, shape ``(batch, *event)``, or draw ``size`` data."""
        size = self.observation.batch_size(x, mask, size)
        register(self)
        with data_plate(size):
            z = pyro.sample("z", self.prior())
            p_x = self.likelihood(z)
            drawn = self.observation.sample(self.likelihood, p_x, x, mask)
            if self.missingness is not None:
                sample_mask(self.missingness, self.observation, p_x, x, drawn, mask)


class VAEGuide(nn.Module):
    """The variational program: z ~ q(z | x), and x_missing ~ p(x | z) if the model has it."""

    def __init__(
        self, posterior: nn.Module, observation: Observation, likelihood: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.posterior = posterior
        self.observation = observation
        self.likelihood = likelihood

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> None:
        """Run the program on a batch x, shape ``(batch, *event)``."""
        x = self.observation.guide_input(x, mask)
        register(self)
        with data_plate(x.shape[0]):
            z = sample_latent("z", self.posterior(x))
            if self.likelihood is not None and mask is not None:
                sample_missing(self.observation, self.likelihood(z))
