"""The common interface of all oracles."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.testing._program import Program


class Oracle(nn.Module, ABC):
    """A Pyro model/guide pair with closed forms.

    ``model(x)`` and ``guide(x)`` take ``x`` of shape (batch, dim) and are Pyro programs with one
    plate, ``data`` (dim -1), over the batch. They train under `pyro.infer.SVI`, and as
    ``Trace_ELBO()(oracle.model, oracle.guide)`` with a torch optimizer.

    **Closed forms are always in nats per datum, unscaled and unmasked**, of shape (batch,),
    whatever ``size`` and ``mask`` are. An estimator returns minus N/B times the sum of its bound
    over the data that the mask keeps; that sum is left to the caller. ``beta`` enters only `elbo`
    and ``log_weight``. All are differentiable in the parameters.

    Each oracle also has, with its latents as keywords,

    - ``log_joint(x, ...)``: ``log p(x, latents)``, never weighted by beta;
    - ``log_weight(x, ...)``: ``log p(x | latents) + beta (log p(latents) - log q(latents | x))``,
      computed without Pyro for latents with any number of leading (particle) dimensions.

    Common options:

    Args:
        full_rank: a full covariance for the guide instead of a diagonal one.
        size: N, the size of the data set, of which the batch of B is then a subsample, with the
            scale N/B at every site. ``x`` is the mini-batch itself.
        beta: the weight of the KL in the ELBO: ``poutine.scale`` around the latent sites of model
            and guide. None omits the handler.
        mask: booleans of shape (batch,), ``poutine.mask`` around all sites.
        seed: of the random parameters; the global generators are not used.
        dtype: of the parameters, and so of ``x``.
    """

    def __init__(self, model: Program, guide: Program):
        super().__init__()
        self.model = model
        self.guide = guide

    @property
    def beta(self) -> float:
        """The weight of the KL, by default 1."""
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
        NotImplementedError if there is no closed form."""
        raise NotImplementedError(f"{type(self).__name__}: no closed form of KL(q || p)")

    def elbo(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
        """``E_q log p(x | latents) - beta KL(q || p)``, the exact ELBO of the current guide, in
        nats per datum; NotImplementedError if there is no closed form."""
        return self.expected_log_likelihood(x) - self.beta * self.kl_to_prior(x)

    @abstractmethod
    def set_exact_guide(self) -> None:
        """Make the guide the exact posterior, in place, for any beta.

        Raises:
            ValueError: if the family of the guide does not contain the posterior.
        """
