"""One pair stacked on the latents of another: Kingma's M1+M2."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ppl_vae.constructor import Constructed
from ppl_vae.errors import describe
from ppl_vae.models.arrays import of_arrays
from ppl_vae.models.datasets import of_data_sets
from ppl_vae.models.observation import Observation
from ppl_vae.models.pair import mean_of, values_of
from ppl_vae.models.semisupervised import SemiSupervisedVAE
from ppl_vae.models.vae import VAE
from ppl_vae.module_modes import inference


class StackedVAE(Constructed):
    """M1+M2: a semi-supervised VAE of the latents of a VAE.

    ``first`` (M1) is trained on x, with no labels, and kept as it is. ``second`` (M2) is trained on
    :meth:`latents` of x with labels, its likelihood a density of M1's latents, such as
    ``likelihoods.Normal(net, "per-pixel")``:

        svi = SVI(stacked.second.model, stacked.second.guide, optimizer, TraceEnum_ELBO(...))
        svi.step(stacked.latents(x), y)

    The bound is then on log p(z_1, y) of M2, for drawn z_1, not on log p(x).

    Source: Kingma et al. 2014 (arXiv 1406.5298), section 2.1, "Stacked generative semi-supervised
    model".

    Args:
        first: M1, with latents of shape ``(latent_dim,)``.
        second: M2, whose data are of that shape.

    Raises:
        TypeError: if one is not such a pair.
        ValueError: if the data of ``second`` are not the latents of ``first``.
    """

    def __init__(self, *, first: VAE, second: SemiSupervisedVAE) -> None:
        super().__init__()
        for name, pair, kind in (("first", first, VAE), ("second", second, SemiSupervisedVAE)):
            if not isinstance(pair, kind):
                raise TypeError(
                    f"StackedVAE: {name} must be a {kind.__name__}, got {describe(type(pair))}"
                )
        latents, data = first.prior().event_shape, second.observation.event_shape
        if latents != data:
            raise ValueError(
                f"StackedVAE: the data of second must be the latents of first, but first has "
                f"latents of shape {tuple(latents)} and second data of shape {tuple(data)}; change "
                f"the width of second's networks"
            )
        self.first = first
        self.second = second

    @property
    def observation(self) -> Observation:
        """The shape and support of one datum."""
        return self.first.observation

    @of_arrays
    @inference
    @of_data_sets
    def latents(
        self, x: Float[Tensor, "batch *event"], *, mask: Tensor | None = None
    ) -> Float[Tensor, "batch latent"]:
        """Return one draw of M1's latents, z_1 ~ q(z_1 | x): the data of M2.

        Where the boolean ``mask``, of x's shape, is False, x is not observed.
        """
        return self.first.posterior(self.first.observation.seen(x, mask)).sample()

    @of_arrays
    @inference
    def classify(
        self, x: Float[Tensor, "batch *event"], *, mask: Tensor | None = None
    ) -> Float[Tensor, "batch classes"]:
        """Return q(y | z_1) at the mean z_1 of q(z_1 | x); only shapes are checked."""
        self.first.observation.check_shape(x)
        if mask is not None:
            self.first.observation.check_mask(x, mask)
        return self.second.classify(self._mean_latents(self.first.observation.filled(x, mask)))

    @of_arrays
    @inference
    @of_data_sets
    def encode(
        self,
        x: Float[Tensor, "batch *event"],
        y: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Float[Tensor, "batch latent"]:
        """Return M2's latents at the mean of M1's; y and mask as in ``SemiSupervisedVAE``."""
        x = self.first.observation.seen(x, mask)
        return self.second.encode(self._mean_latents(x), y)

    @of_arrays
    @inference
    def generate(
        self, n: int, y: Tensor | None = None, *, mean: bool = False
    ) -> Float[Tensor, "n *event"]:
        """Draw n data: y ~ p(y) unless given, z_1 from M2, x ~ p(x | z_1), or its mean."""
        return values_of("generate", self.first.likelihood(self.second.generate(n, y)), mean)

    @of_arrays
    @inference
    def decode(self, z: Float[Tensor, "batch latent"], y: Tensor) -> Float[Tensor, "batch *event"]:
        """Return E[x | z_1] at the mean z_1 of M2's p(z_1 | z, y)."""
        return self.first.decode(self.second.decode(z, y))

    @of_arrays
    @inference
    @of_data_sets
    def reconstruct(
        self,
        x: Float[Tensor, "batch *event"],
        y: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Float[Tensor, "batch *event"]:
        """Return E[x' | z_1], z_1 being M2's reconstruction of one draw of M1's latents."""
        drawn = self.latents(x, mask=mask)
        return self.first.likelihood(self.second.reconstruct(drawn, y)).mean

    def _mean_latents(self, x: Tensor) -> Tensor:
        return mean_of(self.first.posterior(x))
