"""The contract that all oracles keep."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.testing._program import Program


class Oracle(nn.Module, ABC):
    """A Pyro model/guide pair for which everything is known in closed form.

    ``model(x)`` and ``guide(x)`` take ``x`` of shape (batch, dim) and are Pyro programs with one
    plate, ``data`` (dim -1), over the batch. Their parameters are registered under a name of their
    own, so that they train under `pyro.infer.SVI`, and as ``Trace_ELBO()(oracle.model,
    oracle.guide)`` with a torch optimiser.

    **Closed forms are always in nats per datum, unscaled and unmasked**: of shape (batch,),
    whatever ``size`` and ``mask`` say. What an estimator returns is minus N/B times the sum of its
    bound over the data that the mask keeps; that sum is left to the caller. ``beta`` enters `elbo`
    and ``log_weight``, and nothing else. All are differentiable in the parameters.

    Each oracle also has, with its latents as keywords,

    - ``log_joint(x, ...)``: ``log p(x, latents)``, never weighted by beta;
    - ``log_weight(x, ...)``: ``log p(x | latents) + beta (log p(latents) - log q(latents | x))``,
      computed without Pyro for latents with any number of leading (particle) dimensions.

    Options, the same for all:

    Args:
        full_rank: a full covariance for the guide, in place of a diagonal one.
        size: N, the size of the data set: the plate then takes the batch of B for a subsample, and
            every site carries the scale N/B. ``x`` is the mini-batch itself.
        beta: the weight of the KL in the ELBO: ``poutine.scale`` around the latent sites of model
            and guide. None leaves the handler out.
        mask: booleans of shape (batch,), ``poutine.mask`` around all sites.
        seed: of the random parameters; the global generators are neither read nor written.
        dtype: of the parameters, and so of ``x``.
    """

    def __init__(self, model: Program, guide: Program):
        super().__init__()
        self.model = model
        self.guide = guide

    @property
    def beta(self) -> float:
        """The weight of the KL, 1 unless given."""
        return self.model.options.kl_weight

    @abstractmethod
    def log_px(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        """``log p(x)``, the exact log evidence, in nats per datum."""

    @abstractmethod
    def posterior(self, x: Float[Tensor, "batch dim"]) -> Distribution:
        """The exact posterior, of batch shape (batch,)."""

    @abstractmethod
    def expected_log_likelihood(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        """``E_q log p(x | latents)`` in nats per datum; NotImplementedError without closed form."""

    def kl_to_prior(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        """``KL(q(latents | x) || p(latents))`` in nats per datum, without beta;
        NotImplementedError where there is no closed form."""
        raise NotImplementedError(f"{type(self).__name__}: no closed form of KL(q || p)")

    def elbo(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        """``E_q log p(x | latents) - beta KL(q || p)``, the exact ELBO of the current guide, in
        nats per datum; NotImplementedError where there is no closed form."""
        return self.expected_log_likelihood(x) - self.beta * self.kl_to_prior(x)

    @abstractmethod
    def set_exact_guide(self) -> None:
        """Make the guide the exact posterior, in place and whatever beta is.

        Raises:
            ValueError: the family of the guide does not contain the posterior.
        """
