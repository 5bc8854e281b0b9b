"""The prior of a VQ-VAE."""

from __future__ import annotations

from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import ConditionalDistribution, check_finite
from ppl_vae.distributions.codebook import CodebookVectors
from ppl_vae.distributions.one_hot import OneHotCodes
from ppl_vae.errors import describe


class Codebook(ConditionalDistribution):
    r"""p(z) = p(k) for z the D vectors of the codes k in the posterior's codebook.

    The posterior, ``posteriors.VectorQuantised``, is the pair's own; its codebook is what draws are
    taken from. The codes have any prior over one-hot codes, uniform while the codebook is trained,
    as a rule, and learned afterwards, with all else fixed:

        p = priors.Codebook(vae.posterior, priors.Autoregressive(D, K))
        trained = vae.requires_grad_(False).replace(prior=p)

    ``replace`` shares the codebook, and the estimator's gradient is then that of log p(k) alone.
    No gradient of log p(z) reaches the encoder or the codebook.

    Source: van den Oord et al. 2017 (arXiv 1711.00937), sections 3.1 and 3.3.

    Args:
        posterior: the pair's own ``posteriors.VectorQuantised``.
        codes_prior: p(k), a prior over D one-hot codes of K categories, such as
            ``priors.Categorical(D, K, learn_logits=True)`` or ``priors.Autoregressive(D, K)``; None
            for the uniform one.

    Raises:
        TypeError: if the posterior has no codebook, or ``codes_prior`` is not a module.
        ValueError: if ``codes_prior`` is of other codes than the posterior's.

    Example:
        >>> from ppl_vae import nets, posteriors
        >>> width = posteriors.VectorQuantised.net_features(4, code_dim=8)
        >>> q = posteriors.VectorQuantised(nets.MLP(784, width), 4, codes=16, code_dim=8)
        >>> Codebook(q)().sample((5,)).shape
        torch.Size([5, 32])
    """

    def __init__(self, posterior: nn.Module, codes_prior: nn.Module | None = None) -> None:
        super().__init__()
        if not isinstance(getattr(posterior, "codebook", None), Tensor):
            expected = "a module with a codebook, the pair's posteriors.VectorQuantised"
            raise TypeError(f"Codebook: posterior must be {expected}, got {describe(posterior)}")
        if codes_prior is not None and not isinstance(codes_prior, nn.Module):
            expected = "a prior over one-hot codes, such as priors.Autoregressive(D, K), or None"
            raise TypeError(
                f"Codebook: codes_prior must be {expected}, got {describe(codes_prior)}"
            )
        self.posterior = posterior
        self.codes_prior = codes_prior
        if codes_prior is not None:
            self._check_codes(codes_prior())

    def _check_codes(self, p: Distribution) -> None:
        d, k = self._sizes()
        categories = getattr(p.support, "categories", None)
        if p.event_shape != (d * k,) or categories != k:
            of = "" if categories is None else f" of {categories} categories"
            raise ValueError(
                f"Codebook: codes_prior must be over {d} one-hot codes of {k} categories, event "
                f"shape ({d * k},), got event shape {tuple(p.event_shape)}{of}; give it "
                f"latent_dim={d} and categories={k}"
            )

    def _sizes(self) -> tuple[int, int]:
        """Return the number of codes in z, and that of the codebook."""
        posterior: nn.Module = self.posterior
        return int(posterior.latent_dim), len(posterior.codebook)  # type: ignore[arg-type]

    def forward(self) -> CodebookVectors:
        """Return p(z), batch shape ``()``, event shape ``(latent_dim * code_dim,)``."""
        codebook = self.posterior.codebook
        assert isinstance(codebook, Tensor)
        if is_validation_enabled():  # no distribution checks the codebook
            check_finite(self)
        if self.codes_prior is None:
            return CodebookVectors(OneHotCodes(codebook.new_zeros(self._sizes())), codebook)
        return CodebookVectors(self.codes_prior(), codebook)

    def with_posterior(self, posterior: nn.Module) -> Codebook:
        """Return a prior on another posterior that shares this one's ``codes_prior``."""
        new = Codebook(posterior, self.codes_prior)
        new.training = self.training
        return new
