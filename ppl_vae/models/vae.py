"""The variational autoencoder."""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from ppl_vae.errors import positive_int
from ppl_vae.models.methods import Data, Draws, Latents, dataset_method, inference_method
from ppl_vae.models.observation import Observation
from ppl_vae.models.pair import Pair, check_same_posterior, draw_or_mean, mean_of
from ppl_vae.models.plate import data_plate
from ppl_vae.models.shapes import checked_observation
from ppl_vae.registration import register


class VAE(Pair):
    """The variational autoencoder: p(z) p(x | z), with the guide q(z | x).

    Source: Kingma & Welling 2014 (arXiv 1312.6114); Rezende et al. 2014 (arXiv 1401.4082).

    Args:
        prior: p(z), from :mod:`ppl_vae.priors`.
        posterior: q(z | x), from :mod:`ppl_vae.posteriors`.
        likelihood: p(x | z), from :mod:`ppl_vae.likelihoods`.

    Any module that returns a ``pyro.distributions`` object can be a part.

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

    def __init__(self, *, prior: nn.Module, posterior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        check_same_posterior("VAE", prior, posterior)
        observation = checked_observation("VAE", prior, posterior, likelihood)
        self.model = VAEModel(prior, likelihood, observation)
        self.guide = VAEGuide(posterior, observation)

    @inference_method
    def generate(self, n: int, *, mean: bool = False) -> Draws:
        """Draw n data: z ~ p(z), then x ~ p(x | z), or E[x | z] with ``mean``."""
        n = positive_int("generate", "n", n)
        return draw_or_mean("generate", self.likelihood(self.prior().sample((n,))), mean)

    @dataset_method
    def encode(self, x: Data, *, mask: Tensor | None = None) -> Latents:
        """Return the posterior mean E_q(z|x)[z]; for a flow the mean of 100 draws."""
        return mean_of(self.posterior(self.observation.guide_input(x, mask)))

    @inference_method
    def decode(self, z: Latents) -> Data:
        """Return E[x | z]."""
        return self.likelihood(z).mean

    @dataset_method
    def reconstruct(self, x: Data, *, mask: Tensor | None = None) -> Data:
        """Return E[x' | z] at one draw z ~ q(z | x)."""
        q_z = self.posterior(self.observation.guide_input(x, mask))
        return self.likelihood(q_z.sample()).mean


class VAEModel(nn.Module):
    """The generative program: z ~ p(z), x ~ p(x | z)."""

    def __init__(self, prior: nn.Module, likelihood: nn.Module, observation: Observation) -> None:
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood
        self.observation = observation

    def forward(
        self, x: Tensor | None = None, *, mask: Tensor | None = None, size: int | None = None
    ) -> None:
        """Run the program on a batch x, shape ``(batch, *event)``, or draw ``size`` data."""
        size = self.observation.batch_size(x, mask, size)
        register(self)
        with data_plate(size):
            z = pyro.sample("z", self.prior())
            self.observation.sample(self.likelihood, self.likelihood(z), x, mask)


class VAEGuide(nn.Module):
    """The variational program: z ~ q(z | x)."""

    def __init__(self, posterior: nn.Module, observation: Observation) -> None:
        super().__init__()
        self.posterior = posterior
        self.observation = observation

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> None:
        """Run the program on a batch x, shape ``(batch, *event)``."""
        x = self.observation.guide_input(x, mask)
        register(self)
        with data_plate(x.shape[0]):
            pyro.sample("z", self.posterior(x))
