"""Variational autoencoders with several stochastic layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import pyro
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.errors import describe, flag, positive_int
from ppl_vae.models.methods import Data, Draws, dataset_method, inference_method
from ppl_vae.models.observation import Observation
from ppl_vae.models.pair import Pair, check_same_posterior, draw_or_mean, mean_of
from ppl_vae.models.plate import data_plate
from ppl_vae.models.shapes import check_modules, check_same_latents, observation_of, probe
from ppl_vae.models.training_terms import sample_latent
from ppl_vae.registration import register

_OWNER = "HierarchicalVAE"


class HierarchicalVAE(Pair):
    r"""A VAE with L stochastic layers z_1 (next to x) to z_L (the top), sites ``z1`` ... ``zL``.

    The model is p(z_L) Π_l p(z_l | z_{l+1}) p(x | z_1), and the guide

    - ``inference="bottom-up"``: q(z_1 | x) Π_l q(z_{l+1} | z_l), as in Burda et al. 2016 (arXiv
      1509.00519, section 3);
    - ``inference="top-down"``: q(z_L | x) Π_l q(z_l | x, z_{l+1}), as in the ladder VAE of Sønderby
      et al. 2016 (arXiv 1602.02282) with :class:`ppl_vae.posteriors.PrecisionWeighted`, or the
      two-layer VampPrior model (arXiv 1705.07120, section 4).

    Lists are ordered from the data upwards: entry 0 belongs to z_1.

    Args:
        prior: p(z_L), from :mod:`ppl_vae.priors`.
        conditionals: p(z_1 | z_2), ..., p(z_{L-1} | z_L): conditional distributions such as
            ``priors.ConditionalNormal(net)``; L - 1 of them, at least one.
        posteriors: bottom-up q(z_1 | x), q(z_2 | z_1), ...; top-down q(z_1 | x, z_2), ...,
            q(z_L | x). L of them.
        likelihood: p(x | z_1), from :mod:`ppl_vae.likelihoods`.
        inference: the direction of the guide.
        skip_connections: the likelihood is p(x | z_1, ..., z_L), and its network sees all layers,
            z_1 first, concatenated or apart.

    Raises TypeError for a part that is not a module that returns a distribution, and ValueError if
    the shapes or the numbers of the parts disagree.

    Example:
        >>> from ppl_vae import likelihoods, nets, posteriors, priors
        >>> vae = HierarchicalVAE(
        ...     prior=priors.StandardNormal(4),
        ...     conditionals=[priors.ConditionalNormal(nets.MLP(4, 2 * 8))],
        ...     posteriors=[
        ...         posteriors.DiagonalNormal(nets.MLP(64, 2 * 8)),
        ...         posteriors.DiagonalNormal(nets.MLP(8, 2 * 4)),
        ...     ],
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(8, 64)),
        ... )
        >>> vae.generate(3).shape
        torch.Size([3, 64])
    """

    model: HierarchicalModel
    guide: HierarchicalGuide

    def __init__(
        self,
        *,
        prior: nn.Module,
        conditionals: Sequence[nn.Module],
        posteriors: Sequence[nn.Module],
        likelihood: nn.Module,
        inference: Literal["bottom-up", "top-down"] = "bottom-up",
        skip_connections: bool = False,
    ) -> None:
        super().__init__()
        if inference not in ("bottom-up", "top-down"):
            expected = "inference must be 'bottom-up' or 'top-down'"
            raise ValueError(f"{_OWNER}: {expected}, got {describe(inference)}")
        parts: dict[str, object] = {"prior": prior, "likelihood": likelihood}
        for name, modules in {"conditionals": conditionals, "posteriors": posteriors}.items():
            if not isinstance(modules, (Sequence, nn.ModuleList)) or isinstance(modules, str):
                expected = "a list of modules, z_1's first"
                raise TypeError(f"{_OWNER}: {name} must be {expected}, got {describe(modules)}")
            parts |= {f"{name}[{i}]": part for i, part in enumerate(modules)}
        check_modules(_OWNER, parts)
        self.inference = inference
        self.skip_connections = skip = flag(_OWNER, "skip_connections", skip_connections)
        if len(conditionals) < 1 or len(posteriors) != len(conditionals) + 1:
            raise ValueError(
                f"{_OWNER}: L >= 2 layers need L posteriors and L - 1 conditionals, got "
                f"{len(posteriors)} posteriors and {len(conditionals)} conditionals; for one layer "
                f"use VAE"
            )
        for layer, conditional in enumerate(conditionals):
            if getattr(posteriors[layer], "conditional", conditional) is not conditional:
                raise ValueError(
                    f"{_OWNER}: posteriors[{layer}] has a conditional other than "
                    f"conditionals[{layer}]; pass the same object to both"
                )
        top_down = inference == "top-down"
        if top_down:
            check_same_posterior(_OWNER, prior, posteriors[-1])
        observation = _checked_observation(
            prior, conditionals, posteriors, likelihood, top_down, skip
        )
        self.model = HierarchicalModel(prior, conditionals, likelihood, observation, skip)
        self.guide = HierarchicalGuide(posteriors, observation, top_down)

    @property
    def conditionals(self) -> tuple[nn.Module, ...]:
        """p(z_1 | z_2), ..., p(z_{L-1} | z_L)."""
        return tuple(self.model.conditionals)

    @property
    def posteriors(self) -> tuple[nn.Module, ...]:
        """The guide's distributions, that of z_1 first."""
        return tuple(self.guide.posteriors)

    @property
    def posterior(self) -> nn.Module:
        """The guide's distribution that sees x alone: of z_1 bottom-up, of z_L top-down."""
        return self.posteriors[-1 if self.guide.top_down else 0]

    @inference_method
    def generate(self, n: int, *, mean: bool = False) -> Draws:
        """Draw n data from the top layer down, or E[x | z] at drawn latents with ``mean``."""
        latents = [self.prior().sample((positive_int("generate", "n", n),))]
        for conditional in reversed(self.conditionals):
            latents.insert(0, conditional(latents[0]).sample())
        return draw_or_mean(self.observation, self.model.likelihood_given(latents), mean)

    @dataset_method
    def encode(self, x: Data, *, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the latents of all layers, z_1 first: the mean of each given the one before it."""
        x = self.observation.guide_input(x, mask)
        return self.guide.latents(x, lambda _, q: mean_of(q))

    @inference_method
    def decode(self, latents: Sequence[Tensor]) -> Data:
        """Return E[x | z] at the latents of all layers, z_1 first, as `encode` returns them."""
        number = len(self.posteriors)
        if not isinstance(latents, (tuple, list)) or len(latents) != number:
            expected = f"the {number} tensors that encode returns, z_1's first"
            raise ValueError(f"decode: latents must be {expected}, got {describe(latents)}")
        return self.observation.mean_of("decode", self.model.likelihood_given(list(latents)))

    @dataset_method
    def reconstruct(self, x: Data, *, mask: Tensor | None = None) -> Data:
        """Return E[x' | z] at one draw of the guide's latents."""
        x = self.observation.guide_input(x, mask)
        latents = self.guide.latents(x, lambda _, q: q.sample())
        p_x = self.model.likelihood_given(list(latents))
        return self.observation.mean_of("reconstruct", p_x)

    def _posterior_for_prior(self, parts: dict[str, object]) -> object:
        posteriors = parts["posteriors"]
        assert isinstance(posteriors, Sequence)
        return posteriors[-1]


class HierarchicalModel(nn.Module):
    """The generative program: z_L ~ p(z_L), z_l ~ p(z_l | z_{l+1}), x ~ p(x | z_1)."""

    def __init__(
        self,
        prior: nn.Module,
        conditionals: Sequence[nn.Module],
        likelihood: nn.Module,
        observation: Observation,
        skip_connections: bool,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.conditionals = nn.ModuleList(conditionals)
        self.likelihood = likelihood
        self.observation = observation
        self.skip_connections = skip_connections

    def likelihood_given(self, latents: list[Tensor]) -> Distribution:
        """Return p(x | z) for the latents of all layers, z_1 first."""
        return self.likelihood(*(latents if self.skip_connections else latents[:1]))

    def forward(
        self, x: Tensor | None = None, *, mask: Tensor | None = None, size: int | None = None
    ) -> None:
        """Run the program on a batch x, shape ``(batch, *event)``, or draw ``size`` data."""
        size = self.observation.batch_size(x, mask, size)
        register(self)
        layer = len(self.conditionals) + 1
        with data_plate(size):
            latents = [pyro.sample(f"z{layer}", self.prior())]
            for conditional in reversed(self.conditionals):
                layer -= 1
                latents.insert(0, pyro.sample(f"z{layer}", conditional(latents[0])))
            self.observation.sample(self.likelihood, self.likelihood_given(latents), x, mask)


class HierarchicalGuide(nn.Module):
    """The variational program, bottom-up or top-down."""

    def __init__(
        self, posteriors: Sequence[nn.Module], observation: Observation, top_down: bool
    ) -> None:
        super().__init__()
        self.posteriors = nn.ModuleList(posteriors)
        self.observation = observation
        self.top_down = top_down

    def latents(
        self, x: Tensor, value: Callable[[str, Distribution], Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the latents of all layers, z_1 first: ``value(site, q)`` of each posterior q."""
        order = list(enumerate(self.posteriors, start=1))
        if self.top_down:
            order.reverse()
        latents: list[Tensor] = []
        for layer, posterior in order:
            # Bottom-up, q(z_l | z_{l-1}) does not see x; top-down, q(z_l | x, z_{l+1}) does.
            below = (x,) if self.top_down or not latents else ()
            latents.append(value(f"z{layer}", posterior(*below, *latents[-1:])))
        return tuple(reversed(latents) if self.top_down else latents)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> None:
        """Run the program on a batch x, shape ``(batch, *event)``."""
        x = self.observation.guide_input(x, mask)
        register(self)
        with data_plate(x.shape[0]):
            self.latents(x, sample_latent)


def _checked_observation(
    prior: nn.Module,
    conditionals: Sequence[nn.Module],
    posteriors: Sequence[nn.Module],
    likelihood: nn.Module,
    top_down: bool,
    skip_connections: bool,
) -> Observation:
    """Return the pair's observation; raise an error naming layers whose shapes disagree."""
    names = [*(f"conditionals[{i}]" for i in range(len(conditionals))), "prior"]
    p = [probe(_OWNER, "prior", prior)]  # z_1's first, once the conditionals are in
    for layer, conditional in reversed(list(enumerate(conditionals))):
        p.insert(0, probe(_OWNER, names[layer], conditional, p[0].event_shape))
    events = [p_z.event_shape for p_z in p]
    p_x = probe(_OWNER, "likelihood", likelihood, *(events if skip_connections else events[:1]))
    for layer, posterior in enumerate(posteriors):
        if top_down:
            inputs = [p_x.event_shape, *events[layer + 1 : layer + 2]]
        else:
            inputs = [events[layer - 1]] if layer else [p_x.event_shape]
        name = f"posteriors[{layer}]"
        q_z = probe(_OWNER, name, posterior, *inputs)
        check_same_latents(_OWNER, names[layer], p[layer], name, q_z)
    return observation_of(_OWNER, likelihood, p_x, *(posteriors if top_down else posteriors[:1]))
