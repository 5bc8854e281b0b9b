"""What oracles share: programs over one batch, with their options, and the interface of a pair."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import pyro
import torch
from jaxtyping import Bool
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.errors import describe, number, positive_int
from ppl_vae.registration import register
from ppl_vae.testing._gaussian import Data, PerDatum


@dataclass(frozen=True)
class PlateOptions:
    """How a batch enters a Pyro program; see `Oracle`."""

    size: int | None = None
    beta: float | None = None
    mask: Bool[Tensor, " batch"] | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", positive_int("", "size", self.size))
        if self.beta is not None:
            fix = "poutine.scale takes positive weights only"
            object.__setattr__(self, "beta", number("", "beta", self.beta, above=0, fix=fix))
        mask: object = self.mask
        if mask is not None and not (isinstance(mask, Tensor) and mask.dtype == torch.bool):
            raise TypeError(f"mask must be a boolean tensor, got {describe(mask)}")

    @property
    def kl_weight(self) -> float:
        """Beta, by default 1."""
        return 1.0 if self.beta is None else self.beta


class Program(nn.Module):
    """A model or a guide over one batch."""

    def __init__(self, options: PlateOptions):
        super().__init__()
        self.options = options

    @contextmanager
    def data_plate(self, x: Data) -> Iterator[None]:
        """Register the parameters and open the plate ``data``, with its mask."""
        batch, size, mask = len(x), self.options.size, self.options.mask
        if size is not None and batch > size:
            raise ValueError(f"size must be at least the batch of {batch}, got {size}")
        if mask is not None and len(mask) != batch:
            raise ValueError(f"mask must have an entry for each of {batch} data, got {len(mask)}")
        register(self)
        with ExitStack() as stack:
            full_size = batch if size is None else size
            stack.enter_context(pyro.plate("data", full_size, subsample_size=batch, dim=-1))
            if mask is not None:
                stack.enter_context(poutine.mask(mask=mask.to(x.device)))
            yield

    def latents(self) -> AbstractContextManager[object]:
        """Return the context of latent sites, which scales them by beta."""
        beta = self.options.beta
        return nullcontext() if beta is None else poutine.scale(scale=beta)


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
    def log_px(self, x: Data) -> PerDatum:
        """``log p(x)``, the exact log evidence, in nats per datum."""

    @abstractmethod
    def posterior(self, x: Data) -> Distribution:
        """The exact posterior, of batch shape (batch,)."""

    @abstractmethod
    def expected_log_likelihood(self, x: Data) -> PerDatum:
        """``E_q log p(x | latents)`` in nats per datum; NotImplementedError without closed form."""

    def kl_to_prior(self, x: Data) -> PerDatum:
        """``KL(q(latents | x) || p(latents))`` in nats per datum, without beta;
        NotImplementedError if there is no closed form."""
        raise NotImplementedError(f"{type(self).__name__}: no closed form of KL(q || p)")

    def elbo(self, x: Data) -> PerDatum:
        """``E_q log p(x | latents) - beta KL(q || p)``, the exact ELBO of the current guide, in
        nats per datum; NotImplementedError if there is no closed form."""
        return self.expected_log_likelihood(x) - self.beta * self.kl_to_prior(x)

    @abstractmethod
    def set_exact_guide(self) -> None:
        """Make the guide the exact posterior, in place, for any beta.

        Raises:
            ValueError: if the family of the guide does not contain the posterior.
        """
