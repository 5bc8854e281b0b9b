"""A label and a Gaussian latent, with sums over labels in closed form."""

from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from ppl_vae.errors import flag, positive_int
from ppl_vae.testing._gaussian import (
    Affine,
    Data,
    Gaussian,
    Latents,
    LinearGaussianMixture,
    PerDatum,
    moment_match,
)
from ppl_vae.testing._modules import AffineNormal, NormalPrior, Random
from ppl_vae.testing._oracle import Oracle, PlateOptions, Program
from ppl_vae.testing.linear_gaussian import LatentGuide


def one_hot(y: Int[Tensor, "..."], like: Float[Tensor, " classes"]) -> Float[Tensor, "... classes"]:
    """Return one-hot labels of the size and dtype of ``like``."""
    return nn.functional.one_hot(y, len(like)).to(like.dtype)


def by_class(affine: Affine, num_classes: int) -> Affine:
    """Return ``y | (c, one_hot(k))`` as a batch over k, the columns of the label as offsets."""
    weight, offsets = affine.weight[:, :-num_classes], affine.weight[:, -num_classes:]
    return Affine(weight, affine.bias + offsets.mT, affine.covariance)


class LabelModel(Program):
    """``y ~ Cat(logits)``, ``z ~ prior()``, ``x ~ likelihood(z, one_hot(y))``."""

    def __init__(
        self,
        logits: Float[Tensor, " classes"],
        prior: NormalPrior,
        likelihood: AffineNormal,
        options: PlateOptions,
        *,
        enumerated: bool,
    ):
        super().__init__(options)
        self.logits = nn.Parameter(logits)
        self.prior = prior
        self.likelihood = likelihood
        self._infer = {"enumerate": "parallel"} if enumerated else {}

    def log_likelihood(
        self, x: Data, y: Int[Tensor, "..."], z: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """``log p(x | y, z)``, by hand; y and z broadcast."""
        return self.likelihood.log_density(x, z, one_hot(y, self.logits))

    def log_prior(self, y: Int[Tensor, "..."], z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """``log p(y) p(z)``, by hand; y and z broadcast."""
        return self.logits.log_softmax(-1)[y] + self.prior.log_density(z)

    def closed_form(self) -> LinearGaussianMixture:
        """Return the mixture over labels."""
        return LinearGaussianMixture(
            self.logits.log_softmax(-1),
            self.prior.closed_form(),
            by_class(self.likelihood.closed_form(), len(self.logits)),
        )

    def exact_posterior(self) -> Affine:
        """``p(z | x, y)``, affine in ``(x, one_hot(y))``."""
        mixture = self.closed_form()
        exact = mixture.likelihood.reverse(mixture.prior)
        weight = torch.cat([exact.weight, exact.bias.mT], -1)
        return Affine(weight, torch.zeros_like(self.prior.loc), exact.covariance)

    def exact_classifier(self) -> tuple[Float[Tensor, "classes dim"], Float[Tensor, " classes"]]:
        """Weight and bias of the logits of ``p(y | x)``, affine in x.

        With ``l_y`` the mean of ``p(x | y)`` and C the covariance, the same for all y,
        ``log pi_y p(x | y) = x^T C^-1 l_y - l_y^T C^-1 l_y / 2 + log pi_y + constant``.
        """
        mixture = self.closed_form()
        marginal = mixture.likelihood.marginal(mixture.prior)
        weight = torch.linalg.solve(marginal.covariance, marginal.loc.mT).mT
        return weight, mixture.log_weights - 0.5 * (weight * marginal.loc).sum(-1)

    def forward(self, x: Data) -> None:
        """Run the model: sites y, z and x."""
        with self.data_plate(x):
            with self.latents():
                # A copy, because Pyro writes into it.
                y = pyro.sample("y", dist.Categorical(logits=self.logits), infer=dict(self._infer))
                z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z, one_hot(y, self.logits)), obs=x)


class LabelGuide(Program):
    """``y ~ Cat(logits(x))``, enumerated in parallel, and ``z ~ posterior(x, one_hot(y))``."""

    def __init__(
        self,
        weight: Float[Tensor, "classes dim"],
        bias: Float[Tensor, " classes"],
        posterior: AffineNormal,
        options: PlateOptions,
    ):
        super().__init__(options)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.posterior = posterior

    def logits(self, x: Data) -> Float[Tensor, "batch classes"]:
        """Return the logits of ``q(y | x)``."""
        return nn.functional.linear(x, self.weight, self.bias)

    def forward(self, x: Data) -> None:
        """Run the guide: sites y and z."""
        with self.data_plate(x), self.latents():
            q_y = dist.Categorical(logits=self.logits(x))
            y = pyro.sample("y", q_y, infer={"enumerate": "parallel"})
            pyro.sample("z", self.posterior(x, one_hot(y, self.bias)))


class DiscreteLinearGaussian(Oracle):
    """A label that shifts the mean of x, and a Gaussian latent::

        p(y) = Cat(pi)    p(z) = N(m, diag s^2)    p(x | y, z) = N(W z + b_y, sigma^2 I)

    ``p(x) = sum_y pi_y N(W m + b_y, W diag(s^2) W^T + sigma^2 I)``; ``p(y | x)`` has logits linear
    in x, because the components share a covariance, and ``p(z | x, y) = N(G x + g_y, P)``.

    ``enumerate`` is the program that sums over y, always in parallel (``TraceEnum_ELBO``):

    - ``"guide"``: ``q(y | x) = Cat(softmax(U x + u))`` and ``q(z | x, y) = N(A x + c_y, S)``, which
      contains the posterior if ``full_rank``. With ``ELBO_y`` the bound on ``log p(x | y)``,
      ``elbo = sum_y q(y | x) [ELBO_y + log pi_y - log q(y | x)]`` for beta = 1, and
      ``sum_y q(y | x) [E log p(x | y, z) - beta (KL_y + log q(y | x) - log pi_y)]`` in general.
    - ``"model"``: y is summed out in the model and absent from the guide, which is
      ``q(z | x) = N(A x + c, S)``. The expectation of the log of a sum has no closed form, and the
      posterior, a mixture, is not in the family: `elbo`, `expected_log_likelihood` and
      `set_exact_guide` raise. Pyro's TraceEnum_ELBO does not support beta here. A masked datum
      counts 0; an estimator that sums the masked densities over y gives it ``log(num_classes)``.

    Sites: ``y``, ``z``, ``x``. Options as in `Oracle`.
    """

    model: LabelModel
    guide: LabelGuide | LatentGuide

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        num_classes: int = 3,
        *,
        enumerate: Literal["guide", "model"] = "guide",
        full_rank: bool = False,
        size: int | None = None,
        beta: float | None = None,
        mask: Bool[Tensor, " batch"] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ):
        if enumerate not in ("guide", "model"):
            raise ValueError(f"enumerate must be 'guide' or 'model', got {enumerate!r}")
        owner = "DiscreteLinearGaussian"
        data_dim = positive_int(owner, "data_dim", data_dim)
        latent_dim = positive_int(owner, "latent_dim", latent_dim)
        num_classes = positive_int(owner, "num_classes", num_classes)
        full_rank = flag(owner, "full_rank", full_rank)
        random, options = Random(seed, dtype), PlateOptions(size, beta, mask)
        model = LabelModel(
            random.normal(num_classes, scale=0.5),
            NormalPrior.random(latent_dim, random),
            AffineNormal.random(latent_dim + num_classes, data_dim, random),
            options,
            enumerated=enumerate == "model",
        )
        guide: LabelGuide | LatentGuide
        if enumerate == "guide":
            weight, bias = model.exact_classifier()
            posterior = AffineNormal.random_posterior(
                model.exact_posterior(), random, full_rank=full_rank
            )
            guide = LabelGuide(
                weight.detach() + random.normal(num_classes, data_dim, scale=0.2),
                bias.detach() + random.normal(num_classes, scale=0.2),
                posterior,
                options,
            )
        else:
            # Near the posterior of the model with Gaussian instead of discrete offsets.
            mixture = model.closed_form()
            conditional, prior = mixture.likelihood, mixture.prior
            offset = moment_match(
                mixture.log_weights, Gaussian(conditional.bias, conditional.covariance)
            )
            near = Affine(conditional.weight, offset.loc, offset.covariance).reverse(prior)
            posterior = AffineNormal.random_posterior(near, random, full_rank=full_rank)
            guide = LatentGuide(posterior, options)
        super().__init__(model, guide)

    @property
    def num_classes(self) -> int:
        """The number of labels."""
        return len(self.model.logits)

    def _label_guide(self, wanted: str) -> LabelGuide:
        if isinstance(self.guide, LabelGuide):
            return self.guide
        raise NotImplementedError(f"{wanted} is undefined with enumerate='model': y is not in q")

    def log_px(self, x: Data) -> PerDatum:
        """``log sum_y pi_y p(x | y)`` in nats per datum."""
        return self.model.closed_form().log_px(x)

    def posterior(self, x: Data) -> MixtureSameFamily:
        """``p(z | x) = sum_y p(y | x) p(z | x, y)``, y summed out."""
        return self.model.closed_form().posterior(x)

    def posterior_y(self, x: Data) -> Categorical:
        """``p(y | x)``."""
        return dist.Categorical(logits=self.model.closed_form().log_joint_label(x))

    def posterior_z_given_y(self, x: Data) -> MultivariateNormal:
        """``p(z | x, y)`` for all y at once, of batch shape (batch, num_classes)."""
        return self.model.closed_form().posterior_given_label(x).distribution()

    def log_qy(self, x: Data) -> Float[Tensor, "batch classes"]:
        """``log q(y | x)`` for all y, without beta; NotImplementedError with enumerate='model'."""
        return self._label_guide("log q(y | x)").logits(x).log_softmax(-1)

    def expected_log_likelihood(self, x: Data) -> PerDatum:
        """``sum_y q(y | x) E_q(z | x, y) log p(x | y, z)`` in nats per datum."""
        posterior = self._label_guide("E_q log p(x | y, z)").posterior.closed_form()
        columns = x.unsqueeze(-2)  # (batch, 1, dim) against the classes
        given_y = by_class(posterior, self.num_classes).at(columns)
        likelihood = self.model.closed_form().likelihood
        return (self.log_qy(x).exp() * likelihood.expected_log_density(columns, given_y)).sum(-1)

    def kl_to_prior(self, x: Data) -> PerDatum:
        """``KL(q(y, z | x) || p(y) p(z))`` in nats per datum, without beta; with enumerate='model'
        ``KL(q(z | x) || p(z))``."""
        prior, posterior = self.model.prior.closed_form(), self.guide.posterior.closed_form()
        if isinstance(self.guide, LatentGuide):
            return posterior.at(x).kl(prior)
        kl_z = by_class(posterior, self.num_classes).at(x.unsqueeze(-2)).kl(prior)
        log_qy = self.log_qy(x)
        return (log_qy.exp() * (kl_z + log_qy - self.model.logits.log_softmax(-1))).sum(-1)

    def set_exact_guide(self) -> None:
        """Make q(y | x) q(z | x, y) the posterior; ValueError if q(z | x, y) is diagonal and the
        posterior is not, or with enumerate='model'."""
        if not isinstance(self.guide, LabelGuide):
            raise ValueError("p(z | x) is a mixture of Gaussians, which no Gaussian guide contains")
        self.guide.posterior.assign(self.model.exact_posterior())
        weight, bias = self.model.exact_classifier()
        with torch.no_grad():
            self.guide.weight.copy_(weight)
            self.guide.bias.copy_(bias)

    def _labels(self, dims: int) -> Int[Tensor, "classes ..."]:
        """Return all labels, on the left of ``dims`` dimensions."""
        labels = torch.arange(self.num_classes, device=self.model.logits.device)
        return labels.reshape(-1, *[1] * dims)

    def log_joint(
        self, x: Data, *, z: Latents, y: Int[Tensor, "..."] | None = None
    ) -> Float[Tensor, "... batch"]:
        """``log p(x, y, z)``, or ``log p(x, z)`` without y, in nats per datum, not weighted by
        beta. The labels y broadcast against the leading dimensions of z."""
        return self._log_joint(x, y, z, 1.0)

    def log_weight(
        self, x: Data, *, z: Latents, y: Int[Tensor, "..."] | None = None
    ) -> Float[Tensor, "... batch"]:
        """The log weight in nats per datum, of the leading shape of y and z broadcast.

        - enumerate='guide', y given: ``log p(x | y, z) + beta (log p(y) p(z) - log q(z | x, y))``,
          without q(y | x): the bound is ``sum_y q(y | x) [log_weight - beta log q(y | x)]``.
        - enumerate='model', no y:
          ``log sum_y p(x | y, z) p(y)^beta + beta (log p(z) - log q(z | x))``.
        """
        if isinstance(self.guide, LatentGuide):
            if y is not None:
                raise ValueError("y is summed out with enumerate='model'; leave it out")
            log_q = self.guide.posterior.log_density(z, x)
        else:
            if y is None:
                raise ValueError("the weight is that of a label with enumerate='guide'; pass y")
            log_q = self.guide.posterior.log_density(z, x, one_hot(y, self.guide.bias))
        return self._log_joint(x, y, z, self.beta) - self.beta * log_q

    def _log_joint(self, x: Tensor, y: Tensor | None, z: Tensor, beta: float) -> Tensor:
        if y is None:
            return self._log_joint(x, self._labels(z.dim() - 1), z, beta).logsumexp(0)
        return self.model.log_likelihood(x, y, z) + beta * self.model.log_prior(y, z)
