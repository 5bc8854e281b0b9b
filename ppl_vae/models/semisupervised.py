"""The semi-supervised variational autoencoder, Kingma's M2."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_vae.conditional import ConditionalDistribution, takes_context
from ppl_vae.errors import number, positive_int
from ppl_vae.estimators.training_terms import TRAINING_TERM
from ppl_vae.labels import Labels
from ppl_vae.models.methods import (
    Data,
    Draws,
    Latents,
    Probabilities,
    dataset_method,
    inference_method,
)
from ppl_vae.models.observation import Observation
from ppl_vae.models.pair import Pair, check_same_posterior, draw_or_mean, mean_of, number_of
from ppl_vae.models.plate import data_plate
from ppl_vae.models.shapes import (
    check_labels_suffice,
    check_modules,
    checked_observation,
    probe,
    zeros_for,
)
from ppl_vae.models.training_terms import sample_latent
from ppl_vae.posteriors import Categorical
from ppl_vae.registration import register


class SemiSupervisedVAE(Pair):
    """Kingma's M2: p(y) p(z) p(x | z, y) with y uniform, and the guide q(y | x) q(z | x, y).

    A prior that takes context is p(z | y) instead of p(z).

    ``model(x, y=None)`` and ``guide(x, y=None)``: y is a ``(batch,)`` tensor of integer labels,
    ``None`` when none is observed, -1 for a datum without its label. Unobserved y is enumerated in
    parallel under ``TraceEnum_ELBO`` and ``estimators.ImportanceWeightedELBO``; per datum:

        observed:    E_q(z|x,y) [ log p(y) p(z) p(x|z,y) / q(z|x,y) ] + α log q(y|x)
        unobserved:  Σ_y q(y|x) { E_q(z|x,y) [ log p(y) p(z) p(x|z,y) / q(z|x,y) ] - log q(y|x) }

    The classification term α log q(y|x) is a site ``classification`` of the model, present where y
    is observed and α > 0, so that any estimator trains q(y|x) on labels. It is not part of the
    bound on log p(x, y): estimators include it in the loss of labelled data, ``evaluation`` omits
    it, like every site marked ``infer={"training_term": True}``.

    Source: Kingma et al. 2014 (arXiv 1406.5298), equations 6, 7 and 9.

    Args:
        prior: p(z), from :mod:`ppl_vae.priors`, or p(z | y), such as
            ``priors.ConditionalNormal(net)``, which sees y one-hot.
        classifier: q(y | x), a network ``(..., D) -> (..., num_classes)`` that returns logits.
        posterior: q(z | x, y), from :mod:`ppl_vae.posteriors`; its network takes x and the one-hot
            y concatenated, or apart (see :class:`ppl_vae.conditional.NeuralConditional`).
        likelihood: p(x | z, y), from :mod:`ppl_vae.likelihoods`; likewise for z and y.
        num_classes: number of values of y.
        classification_weight: α, at least 0.

    Raises TypeError for a part that is not a module of the right kind, and ValueError if the
    shapes of the parts disagree.

    Example:
        >>> from ppl_vae import likelihoods, nets, posteriors, priors
        >>> ssvae = SemiSupervisedVAE(
        ...     prior=priors.StandardNormal(16),
        ...     classifier=nets.MLP(784, 10),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(784 + 10, 2 * 16)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(16 + 10, 784)),
        ...     num_classes=10,
        ... )
        >>> ssvae.classify(torch.zeros(3, 784)).shape
        torch.Size([3, 10])
    """

    model: SemiSupervisedModel
    guide: SemiSupervisedGuide

    def __init__(
        self,
        *,
        prior: nn.Module,
        classifier: nn.Module,
        posterior: nn.Module,
        likelihood: nn.Module,
        num_classes: int,
        classification_weight: float = 0.0,
    ) -> None:
        super().__init__()
        owner = "SemiSupervisedVAE"
        num_classes = positive_int(owner, "num_classes", num_classes)
        alpha = number(owner, "classification_weight", classification_weight, least=0)
        check_modules(owner, {"classifier": classifier})
        check_same_posterior(owner, prior, posterior)
        observation = checked_observation(
            owner, prior, posterior, likelihood, num_classes, classifier=classifier
        )
        check_labels_suffice(owner, likelihood)
        labels = Labels(num_classes)
        q_y = _as_classifier(classifier, observation, num_classes)
        self.model = SemiSupervisedModel(prior, likelihood, q_y, observation, labels, float(alpha))
        self.guide = SemiSupervisedGuide(q_y, posterior, observation, labels)

    @property
    def classifier(self) -> nn.Module:
        """``classifier(x)`` is q(y | x)."""
        return self.guide.classifier

    @property
    def num_classes(self) -> int:
        """The number of values of y."""
        return self.guide.labels.num_classes

    @property
    def labels(self) -> Labels:
        """The classes of y."""
        return self.guide.labels

    @property
    def classification_weight(self) -> float:
        """The weight α of log q(y | x) at observed labels."""
        return self.model.classification_weight

    @inference_method
    def classify(self, x: Data, *, mask: Tensor | None = None) -> Probabilities:
        """Return the probabilities q(y | x).

        Values of x are not checked: accuracy is customarily measured on grey values, which a
        Bernoulli likelihood refuses.
        """
        return self.classifier(self.observation.guide_input(x, mask, values=False)).probs

    @inference_method
    def generate(self, n: int, y: Tensor | None = None, *, mean: bool = False) -> Draws:
        """Draw n data: y ~ p(y) unless given, z ~ p(z | y), x ~ p(x | z, y), or its mean."""
        n, like = positive_int("generate", "n", n), zeros_for(self.likelihood, 1)
        if y is None:
            y = torch.randint(self.num_classes, (n,), device=like.device)
        self.labels.check_observed(y, n)
        one_hot = self.labels.one_hot(y, like.dtype)
        p_z = self.prior(one_hot) if takes_context(self.prior) else self.prior().expand((n,))
        return draw_or_mean(self.observation, self.likelihood(p_z.sample(), one_hot), mean)

    @dataset_method
    def encode(self, x: Data, y: Tensor | None = None, *, mask: Tensor | None = None) -> Latents:
        """Return E_q(z|x,y)[z], where y is not given at the most probable label under q(y | x)."""
        x = self.observation.guide_input(x, mask)
        return mean_of(self.posterior(x, self._observed_or_most_probable(x, y)))

    @inference_method
    def decode(self, z: Latents, y: Tensor) -> Data:
        """Return E[x | z, y] for labels y, shape ``(batch,)``."""
        self.labels.check_observed(y, number_of(z))
        p_x = self.likelihood(z, self.labels.one_hot(y, z.dtype))
        return self.observation.mean_of("decode", p_x)

    @dataset_method
    def reconstruct(self, x: Data, y: Tensor | None = None, *, mask: Tensor | None = None) -> Data:
        """Return E[x' | z, y] at one draw z ~ q(z | x, y); y as for :meth:`encode`."""
        x = self.observation.guide_input(x, mask)
        one_hot = self._observed_or_most_probable(x, y)
        p_x = self.likelihood(self.posterior(x, one_hot).sample(), one_hot)
        return self.observation.mean_of("reconstruct", p_x)

    def _observed_or_most_probable(self, x: Tensor, y: Tensor | None) -> Tensor:
        most_probable = self.classifier(x).probs.argmax(-1)
        if y is not None:
            self.labels.check(y, x.shape[0])
            most_probable = torch.where(y < 0, most_probable, y)
        return self.labels.one_hot(most_probable, x.dtype)


class SemiSupervisedModel(nn.Module):
    """The generative program: y ~ uniform, z ~ p(z), or p(z | y), x ~ p(x | z, y)."""

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        classifier: nn.Module,
        observation: Observation,
        labels: Labels,
        classification_weight: float,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood
        self._prior_takes_y = takes_context(prior)
        # The classifier is the guide's, and the model's only if it scores labels.
        self.classifier = classifier if classification_weight > 0 else None
        self.observation = observation
        self.labels = labels
        self.classification_weight = classification_weight

    def forward(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        size: int | None = None,
    ) -> None:
        """Run the program on a batch x, ``(batch, *event)``, with labels y, ``(batch,)``."""
        size = self.observation.batch_size(x, mask, size, y)
        missing = self.labels.check(y, size)
        register(self)
        p_y = dist.Categorical(logits=zeros_for(self.likelihood, self.labels.num_classes))
        dtype = p_y.logits.dtype
        with data_plate(size):
            if x is not None and y is not None and self.classifier is not None:
                observed = y >= 0
                with poutine.scale(scale=self.classification_weight), poutine.mask(mask=observed):
                    pyro.sample(
                        "classification",
                        self.classifier(self.observation.seen_by_guide(x, mask)),
                        obs=y.clamp(min=0),
                        infer={TRAINING_TERM: True},
                    )
            given = None if missing else y
            label = pyro.sample("y", p_y, obs=given, infer={"enumerate": "parallel"})
            if y is not None and missing:
                # Labels are evidence on y, whether or not the guide uses them.
                pyro.factor("y_observed", self.labels.log_agreement(y, label, dtype))
            one_hot = self.labels.one_hot(label, dtype)
            z = pyro.sample("z", self.prior(one_hot) if self._prior_takes_y else self.prior())
            self.observation.sample(self.likelihood, self.likelihood(z, one_hot), x, mask)


class SemiSupervisedGuide(nn.Module):
    """The variational program: y ~ q(y | x) where unobserved, z ~ q(z | x, y)."""

    def __init__(
        self, classifier: nn.Module, posterior: nn.Module, observation: Observation, labels: Labels
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.posterior = posterior
        self.observation = observation
        self.labels = labels

    def forward(self, x: Tensor, y: Tensor | None = None, *, mask: Tensor | None = None) -> None:
        """Run the program on a batch x, ``(batch, *event)``, with labels y, ``(batch,)``."""
        x = self.observation.guide_input(x, mask)
        missing = self.labels.check(y, x.shape[0])
        register(self)
        with data_plate(x.shape[0]):
            if y is None or missing:
                q_y = self.classifier(x)
                if y is not None:
                    q_y = self.labels.point_masses(y, q_y)
                y = pyro.sample("y", q_y, infer={"enumerate": "parallel"})
            sample_latent("z", self.posterior(x, self.labels.one_hot(y, x.dtype)))


def _as_classifier(classifier: nn.Module, observation: Observation, num_classes: int) -> nn.Module:
    """Return q(y | x) as a conditional distribution, checked by running it on zeros."""
    if not isinstance(classifier, ConditionalDistribution):
        classifier = Categorical(classifier)
    q_y = probe("SemiSupervisedVAE", "classifier", classifier, observation.event_shape)
    if not isinstance(q_y, dist.Categorical) or q_y.logits.shape != (1, num_classes):
        raise ValueError(
            f"SemiSupervisedVAE: classifier must return logits of shape (batch, {num_classes}) for "
            f"num_classes={num_classes}, got {q_y} for x of shape {(1, *observation.event_shape)}"
        )
    return classifier
