"""One pair stacked on the latents of another: Kingma's M1+M2."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ppl_vae.constructor import Constructed, expression
from ppl_vae.errors import describe
from ppl_vae.models.methods import (
    Data,
    Draws,
    Latents,
    Probabilities,
    dataset_method,
    inference_method,
)
from ppl_vae.models.observation import Observation
from ppl_vae.models.pair import draw_or_mean, mean_of
from ppl_vae.models.semisupervised import SemiSupervisedVAE
from ppl_vae.models.vae import VAE


class StackedVAE(Constructed):
    """M1+M2: a semi-supervised VAE of the latents of a VAE.

    ``first`` (M1) is trained on x, without labels, and then kept fixed. ``second`` (M2) is trained
    on the :meth:`latents` of x with labels; its likelihood is a density of M1's latents, such as
    ``likelihoods.Normal(net, "per-pixel")``:

        svi = SVI(stacked.second.model, stacked.second.guide, optimizer, AnalyticKLELBO())
        svi.step(stacked.latents(x), y)

    The bound is on M2's log p(z_1, y) at drawn z_1, not on log p(x).

    Source: Kingma et al. 2014 (arXiv 1406.5298), section 2.1, "Stacked generative semi-supervised
    model".

    Args:
        first: M1, with latents of shape ``(latent_dim,)``.
        second: M2, whose data are of that shape.

    Raises TypeError if either is not such a pair, and ValueError if the data of ``second`` are not
    the latents of ``first``.
    """

    def __init__(self, *, first: VAE, second: SemiSupervisedVAE) -> None:
        super().__init__()
        for name, pair, kind in (("first", first, VAE), ("second", second, SemiSupervisedVAE)):
            if not isinstance(pair, kind):
                got = describe(type(pair))
                raise TypeError(f"StackedVAE: {name} must be a {kind.__name__}, got {got}")
        latents, data = first.prior().event_shape, second.observation.event_shape
        if latents != data:
            raise ValueError(
                f"StackedVAE: the data of second must be the latents of first, but first has "
                f"latents of shape {tuple(latents)} and second data of shape {tuple(data)}; change "
                f"the widths of second's networks"
            )
        self.first = first
        self.second = second

    @property
    def observation(self) -> Observation:
        """The shape and support of one datum."""
        return self.first.observation

    @dataset_method
    def latents(self, x: Data, *, mask: Tensor | None = None) -> Latents:
        """Return one draw of M1's latents, z_1 ~ q(z_1 | x): the data of M2; mask as in a VAE."""
        return self.first.posterior(self.observation.guide_input(x, mask)).sample()

    @inference_method
    def classify(self, x: Data, *, mask: Tensor | None = None) -> Probabilities:
        """Return q(y | z_1) at the mean z_1 of q(z_1 | x); values of x are not checked."""
        x = self.observation.guide_input(x, mask, values=False)
        return self.second.classify(mean_of(self.first.posterior(x)))

    @dataset_method
    def encode(self, x: Data, y: Tensor | None = None, *, mask: Tensor | None = None) -> Latents:
        """Return M2's latents at the mean of M1's; y and mask as in ``SemiSupervisedVAE``."""
        x = self.observation.guide_input(x, mask)
        return self.second.encode(mean_of(self.first.posterior(x)), y)

    @inference_method
    def generate(self, n: int, y: Tensor | None = None, *, mean: bool = False) -> Draws:
        """Draw n data: y ~ p(y) unless given, z_1 from M2, x ~ p(x | z_1), or its mean."""
        return draw_or_mean(
            self.observation, self.first.likelihood(self.second.generate(n, y)), mean
        )

    @inference_method
    def decode(self, z: Latents, y: Tensor) -> Data:
        """Return E[x | z_1] at the mean z_1 of M2's p(z_1 | z, y)."""
        return self.first.decode(self.second.decode(z, y))

    @dataset_method
    def reconstruct(self, x: Data, y: Tensor | None = None, *, mask: Tensor | None = None) -> Data:
        """Return E[x' | z_1] at M2's reconstruction z_1 of one draw of M1's latents."""
        z_1 = self.latents(x, mask=mask)
        p_x = self.first.likelihood(self.second.reconstruct(z_1, y))
        return self.observation.mean_of("reconstruct", p_x)

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:
        """Alias of ``generate``."""
        return self.generate(*args, **kwargs)

    def __repr__(self) -> str:
        return expression(self)
