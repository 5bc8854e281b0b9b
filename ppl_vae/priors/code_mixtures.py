"""Mixture priors of discrete latents."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.conditional import ConditionalDistribution
from ppl_vae.distributions.bernoulli import bernoulli
from ppl_vae.distributions.mixture import Mixture
from ppl_vae.distributions.one_hot import OneHotCodes
from ppl_vae.errors import flag, number, positive_int
from ppl_vae.priors.codes import features_of_codes, register_logits

_EQUAL = "components with equal logits stay equal"


class BernoulliMixture(ConditionalDistribution):
    r"""p(z) = Σ_k w_k Π_d Bernoulli(z_d; sigmoid(l_kd)), z in {0, 1}^D.

    Source: Bishop 2006, "Pattern recognition and machine learning", equation 9.47.

    Args:
        latent_dim: number of latent dimensions D.
        components: number of mixture components K.
        learn_weights: learn the weights w; uniform if not.
        spread: initial standard deviation of the logits l.

    Parameters: ``component_logits`` l, shape ``(K, D)``, initially drawn from N(0, spread²);
    ``logits`` of the weights, shape ``(K,)``, initially 0 (a buffer unless learned).

    Example:
        >>> BernoulliMixture(10, components=50)().log_prob(torch.zeros(3, 10)).shape
        torch.Size([3])
    """

    logits: Tensor

    def __init__(
        self,
        latent_dim: int,
        components: int,
        *,
        learn_weights: bool = False,
        spread: int | float = 1.0,
    ) -> None:
        super().__init__()
        owner = "BernoulliMixture"
        self.latent_dim = positive_int(owner, "latent_dim", latent_dim)
        self.components = positive_int(owner, "components", components)
        self.learn_weights = flag(owner, "learn_weights", learn_weights)
        self.spread = number(owner, "spread", spread, above=0, fix=_EQUAL)
        noise = torch.randn(self.components, self.latent_dim)
        self.component_logits = nn.Parameter(self.spread * noise)
        register_logits(self, torch.zeros(self.components), self.learn_weights)

    def forward(self) -> Mixture:
        """Return p(z), batch shape ``()``, event shape ``(latent_dim,)``."""
        logits = self.component_logits
        return Mixture(
            self.logits,
            bernoulli(logits).to_event(1),
            lambda k: bernoulli(logits[k]).to_event(1),
        )

    def responsibilities(
        self, z: Float[Tensor, "*batch latent"]
    ) -> Float[Tensor, "*batch components"]:
        """Return p(k | z), shape ``(..., components)``."""
        return self().responsibilities(z)


class CategoricalMixture(ConditionalDistribution):
    r"""p(z) = Σ_k w_k Π_d Categorical(z_d; softmax(l_kd)), one-hot codes in a row.

    This is the latent class model of the codes.

    Source: Bishop 2006, "Pattern recognition and machine learning", section 9.3.3 (multinomial
    variables, as in its exercise 9.19).

    Args:
        latent_dim: number of codes D.
        categories: of each code, C.
        components: number of mixture components K.
        learn_weights: learn the weights w; uniform if not.
        spread: initial standard deviation of the logits l.

    Parameters: ``component_logits`` l, shape ``(K, D, C)``, initially drawn from N(0, spread²);
    ``logits`` of the weights, shape ``(K,)``, initially 0 (a buffer unless learned).

    Example:
        >>> CategoricalMixture(20, 10, components=50)().sample((5,)).shape
        torch.Size([5, 200])
    """

    logits: Tensor

    def __init__(
        self,
        latent_dim: int,
        categories: int,
        components: int,
        *,
        learn_weights: bool = False,
        spread: int | float = 1.0,
    ) -> None:
        super().__init__()
        owner = "CategoricalMixture"
        self.latent_dim = positive_int(owner, "latent_dim", latent_dim)
        self.categories = positive_int(owner, "categories", categories)
        self.components = positive_int(owner, "components", components)
        self.learn_weights = flag(owner, "learn_weights", learn_weights)
        self.spread = number(owner, "spread", spread, above=0, fix=_EQUAL)
        noise = torch.randn(self.components, self.latent_dim, self.categories)
        self.component_logits = nn.Parameter(self.spread * noise)
        register_logits(self, torch.zeros(self.components), self.learn_weights)

    @staticmethod
    def latent_features(latent_dim: int, *, categories: int) -> int:
        """Return the number of entries of z: ``latent_dim * categories``."""
        return features_of_codes("CategoricalMixture", latent_dim, categories)

    def forward(self) -> Mixture:
        """Return p(z), batch shape ``()``, event shape ``(latent_dim * categories,)``."""
        logits = self.component_logits
        return Mixture(self.logits, OneHotCodes(logits), lambda k: OneHotCodes(logits[k]))

    def responsibilities(
        self, z: Float[Tensor, "*batch latent"]
    ) -> Float[Tensor, "*batch components"]:
        """Return p(k | z), shape ``(..., components)``."""
        return self().responsibilities(z)
