"""The posterior of a VQ-VAE."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import NeuralConditional, check_finite
from ppl_vae.distributions.codebook import nearest
from ppl_vae.distributions.straight_through import straight_through
from ppl_vae.errors import number, positive_int


class VectorQuantised(NeuralConditional):
    r"""q(z | x): all mass at the vectors of a codebook c that are nearest to the network's output.

    Of the D vectors e_d(x), z_d = c_k with k = argmin_j ‖e_d - c_j‖. log q(z | x) = 0 there, and
    the gradient at z passes on to e unaltered. The distribution has ``training_terms``, summed over
    the vectors of a datum, which the guide adds to what is minimised and evaluation leaves out:

        ``codebook``    Σ_d ‖sg(e_d) - z_d‖²    moves the codebook,
        ``commitment``  β Σ_d ‖e_d - sg(z_d)‖²  moves the encoder,

    with sg the stopped gradient. With ``priors.Codebook`` of this posterior a VAE is the VQ-VAE,
    and its bound log p(x | z) + log p(k). All particles are equal: one is enough. The gradients
    ``"dreg"``, ``"stl"`` and ``"wake"`` are refused: they cut z from the guide, and would miss the
    terms.

    Source: van den Oord et al. 2017 (arXiv 1711.00937), equations 1 to 3.

    Args:
        net: any module ``(..., features) -> (..., D * M)`` that returns e, e_1 first.
        latent_dim: number of vectors D.
        codes: size K of the codebook.
        code_dim: number of entries M of a vector.
        commitment: β, at least 0.

    Parameters: ``codebook`` c, shape ``(K, M)``, initially uniform in ±1/K.

    Raises:
        ValueError: when called, if the network returns another number of features.

    Example:
        >>> from ppl_vae import nets
        >>> q = VectorQuantised(nets.MLP(784, 4 * 8), 4, codes=16, code_dim=8)(torch.zeros(5, 784))
        >>> q.sample().shape, q.training_terms["commitment"].shape
        (torch.Size([5, 32]), torch.Size([5]))
    """

    def __init__(
        self,
        net: nn.Module,
        latent_dim: int,
        *,
        codes: int,
        code_dim: int,
        commitment: int | float = 0.25,
    ) -> None:
        super().__init__(net)
        owner = "VectorQuantised"
        self.latent_dim = positive_int(owner, "latent_dim", latent_dim)
        self.codes = positive_int(owner, "codes", codes)
        self.code_dim = positive_int(owner, "code_dim", code_dim)
        self.commitment = number(owner, "commitment", commitment, least=0)
        uniform = 2 * torch.rand(self.codes, self.code_dim) - 1
        self.codebook = nn.Parameter(uniform / self.codes)

    @staticmethod
    def net_features(latent_dim: int, *, code_dim: int) -> int:
        """Return the number of features of the network's output: ``latent_dim * code_dim``."""
        d = positive_int("VectorQuantised", "latent_dim", latent_dim)
        return d * positive_int("VectorQuantised", "code_dim", code_dim)

    latent_features = net_features
    """The number of entries of z."""

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(z | context), batch shape ``(...)``, event shape ``(D * M,)``."""
        outputs = self.outputs(*context)
        size = (self.latent_dim, self.code_dim)
        if outputs.shape[-1] != size[0] * size[1]:
            raise ValueError(
                f"VectorQuantised: net must return latent_dim * code_dim = {size[0] * size[1]} "
                f"features, got an output of shape {tuple(outputs.shape)}"
            )
        if is_validation_enabled():  # a point mass checks nothing
            check_finite(self, *context)
        e = outputs.unflatten(-1, size)
        c = self.codebook[nearest(e, self.codebook)]
        q = dist.Delta(straight_through(c, e).flatten(-2), event_dim=1)
        q.training_terms = {
            "codebook": _squared_distance(e.detach(), c),
            "commitment": self.commitment * _squared_distance(e, c.detach()),
        }
        return q


def _squared_distance(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().sum((-2, -1))
