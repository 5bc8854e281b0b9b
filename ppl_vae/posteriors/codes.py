"""Posteriors of discrete latents: binary codes, and one-hot codes in a row."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import NeuralConditional
from ppl_vae.distributions.bernoulli import bernoulli
from ppl_vae.distributions.one_hot import OneHotCodes
from ppl_vae.distributions.straight_through import (
    StraightThroughBernoulli,
    StraightThroughOneHotCodes,
)
from ppl_vae.errors import number, positive_int

_POSITIVE = "the gradient at 0 is that of a step"


class Bernoulli(NeuralConditional):
    """q(z | x) = Π_d Bernoulli(z_d; sigmoid(l_d(x))), z in {0, 1}^D.

    The mean, and what ``encode`` returns, is the probabilities. Draws have no gradient: train it
    with ``ImportanceWeightedELBO(K, gradient)`` and a gradient for discrete latents, ``"vimco"``,
    ``"loo"``, ``"disarm"`` or ``"wake"``.

    Source: Mnih & Gregor 2014 (arXiv 1402.0030).

    Args:
        net: any module ``(..., features) -> (..., D)`` that returns the logits l.

    Example:
        >>> from ppl_vae import nets
        >>> Bernoulli(nets.MLP(784, 200))(torch.zeros(5, 784)).sample().shape
        torch.Size([5, 200])
    """

    @staticmethod
    def net_features(latent_dim: int) -> int:
        """Return the number of features of the network's output: ``latent_dim``."""
        return positive_int("Bernoulli", "latent_dim", latent_dim)

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(z | context), batch shape ``(...)``, event shape ``(D,)``."""
        return bernoulli(self.outputs(*context)).to_event(1)


class OneHotCategorical(NeuralConditional):
    """q(z | x) = Π_d Categorical(z_d; softmax(l_d(x))): D one-hot codes of C categories in a row.

    The mean, and what ``encode`` returns, is the probabilities. Draws have no gradient, as of
    :class:`Bernoulli`.

    Source: Jang et al. 2017 (arXiv 1611.01144), section 4.

    Args:
        net: any module ``(..., features) -> (..., D * C)`` that returns the logits, those of the
            first code first.
        categories: C.

    Raises:
        ValueError: when called, if the network's number of features is no multiple of C.

    Example:
        >>> from ppl_vae import nets
        >>> q = OneHotCategorical(nets.MLP(784, 20 * 10), categories=10)
        >>> q(torch.zeros(5, 784)).sample().shape
        torch.Size([5, 200])
    """

    def __init__(self, net: nn.Module, categories: int) -> None:
        super().__init__(net)
        self.categories = positive_int("OneHotCategorical", "categories", categories)

    @staticmethod
    def net_features(latent_dim: int, *, categories: int) -> int:
        """Return the number of features of the network's output: ``latent_dim * categories``."""
        return _features("OneHotCategorical", latent_dim, categories)

    latent_features = net_features
    """The number of entries of z."""

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(z | context), batch shape ``(...)``, event shape ``(D * C,)``."""
        logits = self.outputs(*context)
        return OneHotCodes(_in_codes("OneHotCategorical", logits, self.categories))


class RelaxedBernoulli(NeuralConditional):
    r"""q(z | x) of :class:`Bernoulli` whose draws have a gradient, that of a relaxation.

    Draws are zeros and ones and log q is their mass, so that every bound is that of the discrete
    model. The gradient is that of sigmoid((l + g) / τ), g logistic noise, in place of the step
    l + g > 0: biased, for smaller τ less, but with a larger variance.
    ``estimators.TemperatureScheduled`` changes τ in training.

    Source: Jang et al. 2017 (arXiv 1611.01144), section 2.2, "straight-through Gumbel-softmax";
    Maddison et al. 2017 (arXiv 1611.00712), appendix B, for the binary case.

    Args:
        net: any module ``(..., features) -> (..., D)`` that returns the logits l.
        temperature: τ, above 0.

    Example:
        >>> from ppl_vae import nets
        >>> q = RelaxedBernoulli(nets.MLP(784, 200), temperature=0.5)
        >>> q(torch.zeros(5, 784)).rsample().requires_grad
        True
    """

    def __init__(self, net: nn.Module, *, temperature: int | float = 0.5) -> None:
        super().__init__(net)
        self.temperature = _temperature("RelaxedBernoulli", temperature)

    @staticmethod
    def net_features(latent_dim: int) -> int:
        """Return the number of features of the network's output: ``latent_dim``."""
        return positive_int("RelaxedBernoulli", "latent_dim", latent_dim)

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(z | context), batch shape ``(...)``, event shape ``(D,)``."""
        return StraightThroughBernoulli(self.temperature, self.outputs(*context)).to_event(1)


class RelaxedOneHotCategorical(NeuralConditional):
    r"""q(z | x) of :class:`OneHotCategorical` whose draws have a gradient, that of a relaxation.

    Draws are one-hot and log q is their mass. The gradient is that of softmax((l + g) / τ), g
    Gumbel noise, in place of the one-hot argmax of l + g; see :class:`RelaxedBernoulli`.

    Source: Jang et al. 2017 (arXiv 1611.01144), equations 1 and 2 and section 2.2.

    Args:
        net: as for :class:`OneHotCategorical`.
        categories: C.
        temperature: τ, above 0.

    Raises:
        ValueError: when called, if the network's number of features is no multiple of C.

    Example:
        >>> from ppl_vae import nets
        >>> q = RelaxedOneHotCategorical(nets.MLP(784, 20 * 10), categories=10)
        >>> q(torch.zeros(5, 784)).rsample().shape
        torch.Size([5, 200])
    """

    def __init__(self, net: nn.Module, categories: int, *, temperature: int | float = 0.5) -> None:
        super().__init__(net)
        owner = "RelaxedOneHotCategorical"
        self.categories = positive_int(owner, "categories", categories)
        self.temperature = _temperature(owner, temperature)

    @staticmethod
    def net_features(latent_dim: int, *, categories: int) -> int:
        """Return the number of features of the network's output: ``latent_dim * categories``."""
        return _features("RelaxedOneHotCategorical", latent_dim, categories)

    latent_features = net_features
    """The number of entries of z."""

    def forward(self, *context: Tensor) -> Distribution:
        """Return q(z | context), batch shape ``(...)``, event shape ``(D * C,)``."""
        logits = _in_codes("RelaxedOneHotCategorical", self.outputs(*context), self.categories)
        return StraightThroughOneHotCodes(self.temperature, logits)


def _temperature(owner: str, temperature: object) -> int | float:
    return number(owner, "temperature", temperature, above=0, fix=_POSITIVE)


def _features(owner: str, latent_dim: int, categories: int) -> int:
    d = positive_int(owner, "latent_dim", latent_dim)
    return d * positive_int(owner, "categories", categories)


def _in_codes(owner: str, logits: Tensor, categories: int) -> Tensor:
    """Return logits ``(..., D * C)`` as ``(..., D, C)``, or raise an error naming the owner."""
    if logits.shape[-1] % categories:
        raise ValueError(
            f"{owner}: net must return latent_dim * categories features, a multiple of "
            f"{categories} for {categories} categories, got an output of shape "
            f"{tuple(logits.shape)}"
        )
    return logits.unflatten(-1, (-1, categories))
