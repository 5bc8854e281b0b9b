"""Priors of discrete latents: binary codes, and one-hot codes in a row."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import ConditionalDistribution
from ppl_vae.distributions.bernoulli import bernoulli
from ppl_vae.distributions.one_hot import OneHotCodes
from ppl_vae.errors import flag, positive_int


class Bernoulli(ConditionalDistribution):
    """p(z) = Π_d Bernoulli(z_d; sigmoid(l_d)), z in {0, 1}^D, probabilities 1/2 unless learned.

    The KL from ``posteriors.Bernoulli`` has a closed form.

    Source: Mnih & Gregor 2014 (arXiv 1402.0030), for binary latents.

    Args:
        latent_dim: number of latent dimensions D.
        learn_logits: learn the logits l; 0 if not.

    Parameters: ``logits`` l, shape ``(D,)``, initially 0; a buffer if not learned.

    Example:
        >>> Bernoulli(3)().log_prob(torch.tensor([0.0, 1.0, 1.0])).exp()
        tensor(0.1250)
    """

    logits: Tensor

    def __init__(self, latent_dim: int, *, learn_logits: bool = False) -> None:
        super().__init__()
        self.latent_dim = positive_int("Bernoulli", "latent_dim", latent_dim)
        self.learn_logits = flag("Bernoulli", "learn_logits", learn_logits)
        register_logits(self, torch.zeros(self.latent_dim), self.learn_logits)

    def forward(self) -> Distribution:
        """Return p(z), batch shape ``()``, event shape ``(latent_dim,)``."""
        return bernoulli(self.logits).to_event(1)


class Categorical(ConditionalDistribution):
    """p(z) = Π_d Categorical(z_d; softmax(l_d)): D one-hot codes of C categories in a row.

    The event shape is ``(D * C,)``, the width of the likelihood's network. The KL from
    ``posteriors.OneHotCategorical`` has a closed form.

    Source: Jang et al. 2017 (arXiv 1611.01144), section 4, for VAEs with categorical latents.

    Args:
        latent_dim: number of codes D.
        categories: C.
        learn_logits: learn the logits l; 0 (uniform) if not.

    Parameters: ``logits`` l, shape ``(D, C)``, initially 0; a buffer if not learned.

    Example:
        >>> Categorical(20, 10)().sample((5,)).shape
        torch.Size([5, 200])
    """

    logits: Tensor

    def __init__(self, latent_dim: int, categories: int, *, learn_logits: bool = False) -> None:
        super().__init__()
        self.latent_dim = positive_int("Categorical", "latent_dim", latent_dim)
        self.categories = positive_int("Categorical", "categories", categories)
        self.learn_logits = flag("Categorical", "learn_logits", learn_logits)
        logits = torch.zeros(self.latent_dim, self.categories)
        register_logits(self, logits, self.learn_logits)

    @staticmethod
    def latent_features(latent_dim: int, *, categories: int) -> int:
        """Return the number of entries of z: ``latent_dim * categories``."""
        return features_of_codes("Categorical", latent_dim, categories)

    def forward(self) -> Distribution:
        """Return p(z), batch shape ``()``, event shape ``(latent_dim * categories,)``."""
        return OneHotCodes(self.logits)


def features_of_codes(owner: str, latent_dim: int, categories: int | None) -> int:
    """Return the number of entries of D codes: D, or D C one-hot."""
    d = positive_int(owner, "latent_dim", latent_dim)
    return d if categories is None else d * positive_int(owner, "categories", categories)


def register_logits(module: nn.Module, logits: Tensor, learn: bool) -> None:
    """Register logits as a parameter, or as a constant, which the state does not hold."""
    if learn:
        module.logits = nn.Parameter(logits)
    else:
        module.register_buffer("logits", logits, persistent=False)
