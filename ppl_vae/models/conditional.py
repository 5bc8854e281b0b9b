"""The conditional variational autoencoder."""

from __future__ import annotations

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ppl_vae.conditional import in_autocast, takes_context
from ppl_vae.errors import describe, positive_int
from ppl_vae.labels import Labels
from ppl_vae.models.methods import Data, Draws, Latents, dataset_method, inference_method
from ppl_vae.models.observation import Observation, autograd_safe
from ppl_vae.models.pair import Pair, check_same_posterior, draw_or_mean, mean_of, number_of
from ppl_vae.models.plate import data_plate
from ppl_vae.models.shapes import check_labels_suffice, checked_observation, zeros_for
from ppl_vae.models.training_terms import sample_latent
from ppl_vae.registration import register


class ConditionalVAE(Pair):
    """The conditional VAE: p(z) p(x | z, c), or p(z | c) p(x | z, c), with the guide q(z | x, c).

    ``model(x, c)`` and ``guide(x, c)``; c is always observed, and the bounds are on log p(x | c).

    Source: Sohn et al. 2015, "Learning structured output representation using deep conditional
    generative models" (NeurIPS); Kingma et al. 2014 (arXiv 1406.5298), equation 6, for labels.

    Args:
        prior: p(z), from :mod:`ppl_vae.priors`, or p(z | c), such as
            ``priors.ConditionalNormal(net)``.
        posterior: q(z | x, c); its network takes x and c concatenated, or apart (see
            :class:`ppl_vae.conditional.NeuralConditional`).
        likelihood: p(x | z, c); likewise for z and c.
        num_classes: for labels c, integers of shape ``(batch,)``, which the parts see one-hot.
        context_features: for vectors c, shape ``(batch, context_features)``. Give one of the two.

    Raises TypeError for a part that returns no distribution, or unless one of ``num_classes`` and
    ``context_features`` is given, and ValueError if the shapes of the parts disagree.

    Example:
        >>> from ppl_vae import likelihoods, nets, posteriors, priors
        >>> vae = ConditionalVAE(
        ...     prior=priors.StandardNormal(8),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(64 + 10, 2 * 8)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(8 + 10, 64)),
        ...     num_classes=10,
        ... )
        >>> vae.generate(torch.arange(10)).shape
        torch.Size([10, 64])
    """

    model: ConditionalModel
    guide: ConditionalGuide
    _is_conditional = True

    def __init__(
        self,
        *,
        prior: nn.Module,
        posterior: nn.Module,
        likelihood: nn.Module,
        num_classes: int | None = None,
        context_features: int | None = None,
    ) -> None:
        super().__init__()
        condition = Condition(num_classes, context_features)
        check_same_posterior("ConditionalVAE", prior, posterior)
        observation = checked_observation(
            "ConditionalVAE", prior, posterior, likelihood, condition.features
        )
        of_labels = condition.labels is not None
        if of_labels:
            check_labels_suffice("ConditionalVAE", likelihood)
        self.num_classes = condition.features if of_labels else None
        self.context_features = None if of_labels else condition.features
        self.model = ConditionalModel(prior, likelihood, observation, condition)
        self.guide = ConditionalGuide(posterior, observation, condition)

    @property
    def labels(self) -> Labels | None:
        """The classes of c; None if c is a vector."""
        return self.model.condition.labels

    @inference_method
    def generate(self, c: Tensor, *, mean: bool = False) -> Draws:
        """Draw one datum for each c: z ~ p(z | c), x ~ p(x | z, c), or E[x | z, c]."""
        condition, n = self.model.condition, self.model.condition.count(c)
        c = condition.features_of(c, n, self.likelihood)
        p_x = self.likelihood(self.model.prior_given(c).expand((n,)).sample(), c)
        return draw_or_mean(self.observation, p_x, mean)

    @dataset_method
    def encode(self, x: Data, c: Tensor, *, mask: Tensor | None = None) -> Latents:
        """Return E_q(z|x,c)[z]; for a flow the mean of 100 draws."""
        x = self.observation.guide_input(x, mask)
        c = self.model.condition.features_of(c, len(x), self.posterior)
        return mean_of(self.posterior(x, c))

    @inference_method
    def decode(self, z: Latents, c: Tensor) -> Data:
        """Return E[x | z, c]."""
        c = self.model.condition.features_of(c, number_of(z), self.likelihood)
        return self.observation.mean_of("decode", self.likelihood(z, c))

    @dataset_method
    def reconstruct(self, x: Data, c: Tensor, *, mask: Tensor | None = None) -> Data:
        """Return E[x' | z, c] at one draw z ~ q(z | x, c)."""
        x = self.observation.guide_input(x, mask)
        c = self.model.condition.features_of(c, len(x), self.posterior)
        p_x = self.likelihood(self.posterior(x, c).sample(), c)
        return self.observation.mean_of("reconstruct", p_x)


class Condition:
    """The condition c: its checks and its form as network input; model and guide share one."""

    def __init__(self, num_classes: int | None, context_features: int | None) -> None:
        if (num_classes is None) == (context_features is None):
            raise TypeError(
                f"ConditionalVAE: give either num_classes (labels c) or context_features (vectors "
                f"c), got num_classes={num_classes} and context_features={context_features}"
            )
        self.labels: Labels | None = None
        if num_classes is None:
            self.features = positive_int("ConditionalVAE", "context_features", context_features)
        else:
            self.features = positive_int("ConditionalVAE", "num_classes", num_classes)
            self.labels = Labels(self.features, "c")

    def count(self, c: Tensor) -> int:
        """Return the number of data to draw, one for each c."""
        if isinstance(c, Tensor) and c.dim() and len(c):
            return len(c)
        what, fix = "a label", "give torch.full((5,), 0) for five of class 0"
        if self.labels is None:
            what, fix = f"{self.features} numbers", "give c.expand(5, -1) for five at one"
        raise (ValueError if isinstance(c, Tensor) else TypeError)(
            f"generate: c must be a tensor with {what} for each datum, got {describe(c)}; {fix}"
        )

    def features_of(self, c: Tensor | None, batch: int, part: nn.Module) -> Tensor:
        """Return c as input of a part, shape ``(batch, features)``, or raise an error."""
        dtype = zeros_for(part, 1).dtype
        if self.labels is not None:
            self.labels.check_observed(c, batch)
            assert c is not None
            return self.labels.one_hot(c, dtype)
        expected = f"c of shape ({batch}, {self.features}), floating"
        dense = isinstance(c, Tensor) and c.layout == torch.strided
        if not isinstance(c, Tensor) or not c.is_floating_point() or not dense:
            raise TypeError(f"expected {expected}, got {describe(c)}")
        if c.shape != (batch, self.features):
            raise ValueError(f"expected {expected}, got {describe(c)}")
        has_dtype = any(p.is_floating_point() for p in part.parameters())
        if has_dtype and c.dtype != dtype and not in_autocast(c.device.type):
            raise TypeError(
                f"expected c of {dtype}, as the parameters are, got {c.dtype}; give c.to({dtype})"
            )
        if is_validation_enabled() and not c.isfinite().all():
            bad = f"{int((~c.isfinite()).sum())} non-finite values (NaN or infinity)"
            raise ValueError(f"c has {bad} of {c.numel()}; remove or impute them")
        return autograd_safe(c)


class ConditionalModel(nn.Module):
    """The generative program: z ~ p(z), or p(z | c), x ~ p(x | z, c)."""

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        observation: Observation,
        condition: Condition,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood
        self.observation = observation
        self.condition = condition

    def prior_given(self, c: Tensor) -> torch.distributions.Distribution:
        """Return p(z | c) for ``features_of`` c, or p(z) if the prior takes no context."""
        return self.prior(c) if takes_context(self.prior) else self.prior()

    def forward(
        self,
        x: Tensor | None = None,
        c: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        size: int | None = None,
    ) -> None:
        """Run the program on a batch x, ``(batch, *event)``, given c."""
        size = self.observation.batch_size(x, mask, size, c)
        features = self.condition.features_of(c, size, self.likelihood)
        register(self)
        with data_plate(size):
            z = pyro.sample("z", self.prior_given(features))
            self.observation.sample(self.likelihood, self.likelihood(z, features), x, mask)


class ConditionalGuide(nn.Module):
    """The variational program: z ~ q(z | x, c)."""

    def __init__(
        self, posterior: nn.Module, observation: Observation, condition: Condition
    ) -> None:
        super().__init__()
        self.posterior = posterior
        self.observation = observation
        self.condition = condition

    def forward(self, x: Tensor, c: Tensor | None = None, *, mask: Tensor | None = None) -> None:
        """Run the program on a batch x, ``(batch, *event)``, given c."""
        x = self.observation.guide_input(x, mask)
        features = self.condition.features_of(c, x.shape[0], self.posterior)
        register(self)
        with data_plate(x.shape[0]):
            sample_latent("z", self.posterior(x, features))
