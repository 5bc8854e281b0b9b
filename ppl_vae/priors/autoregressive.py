"""The autoregressive prior of discrete latents."""

from __future__ import annotations

from collections.abc import Sequence

from pyro.infer.util import is_validation_enabled
from torch.distributions import Distribution

from ppl_vae.conditional import ConditionalDistribution, check_finite, in_float32
from ppl_vae.distributions.autoregressive import AutoregressiveCodes, masked_network
from ppl_vae.errors import integer, positive_int, sizes
from ppl_vae.priors.codes import features_of_codes


class Autoregressive(ConditionalDistribution):
    r"""p(z) = Π_d p(z_d | z_1, ..., z_{d-1}) over binary or one-hot codes, by a masked network.

    A mass is one evaluation of the network, a draw ``latent_dim``.

    Source: Germain et al. 2015, "MADE" (arXiv 1502.03509), section 3, for binary codes; van den
    Oord et al. 2017 (arXiv 1711.00937), section 3.3, for such a prior of a VQ-VAE's codes.

    Args:
        latent_dim: number of codes D, at least 2.
        categories: C, for one-hot codes in a row, event shape ``(D * C,)``; None for binary codes,
            event shape ``(D,)``.
        hidden: widths of the network's hidden layers, at least ``latent_dim - 1``: with fewer,
            some codes would not see all the codes before them. By default two of
            ``max(64, latent_dim - 1)``.

    Raises:
        NotImplementedError: from the distribution's ``mean``, which has no closed form.

    Example:
        >>> Autoregressive(20, categories=10)().sample((5,)).shape
        torch.Size([5, 200])
    """

    def __init__(
        self, latent_dim: int, categories: int | None = None, *, hidden: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        owner = "Autoregressive"
        fix = "one code is Bernoulli or Categorical, with learn_logits=True"
        self.latent_dim = integer(owner, "latent_dim", latent_dim, 2, fix)
        if categories is not None:
            categories = positive_int(owner, "categories", categories)
        self.categories = categories
        least = self.latent_dim - 1
        self.hidden = None if hidden is None else sizes(owner, "hidden", hidden)
        widths = (max(64, least),) * 2 if self.hidden is None else self.hidden
        if min(widths, default=least) < least:
            raise ValueError(
                f"Autoregressive: hidden must be widths of latent_dim - 1 = {least} or more, so "
                f"that each code sees all before it, got {widths}"
            )
        self.net = masked_network(self.latent_dim, self.categories or 1, widths)

    @staticmethod
    def latent_features(latent_dim: int, *, categories: int | None = None) -> int:
        """Return the number of entries of z: ``latent_dim``, times ``categories`` if one-hot."""
        return features_of_codes("Autoregressive", latent_dim, categories)

    def forward(self) -> Distribution:
        """Return p(z), batch shape ``()``."""
        if is_validation_enabled():  # no distribution checks the network's parameters
            check_finite(self)
        return AutoregressiveCodes(
            lambda z: in_float32(self.net(z)),
            self.latent_dim,
            self.categories,
            next(self.net.parameters()).detach(),
        )
