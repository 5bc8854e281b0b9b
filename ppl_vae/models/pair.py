"""What every model/guide pair has in common."""

from __future__ import annotations

from abc import ABC
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.constructor import Constructed, arguments, expression
from ppl_vae.errors import describe, flag, seed_of
from ppl_vae.labels import Labels
from ppl_vae.models.arrays import of_arrays
from ppl_vae.models.datasets import HasParts, drawn
from ppl_vae.models.imputation import imputed
from ppl_vae.models.observation import Observation
from ppl_vae.module_modes import inference

P = TypeVar("P", bound="Pair")


class Pair(Constructed, ABC):
    """A Pyro ``model`` and ``guide`` built from parts that are swapped on their own.

    ``model`` holds the generative parameters θ and ``guide`` the variational parameters φ; both are
    modules, called with the same arguments, with the batch in one plate named ``data``:

    - ``model(x)``, ``guide(x)``: x observed, shape ``(batch, *event)``;
    - ``model(x, mask=m)``, ``guide(x, mask=m)``: only the entries where the boolean m, of x's
      shape, is True are observed; the others may hold anything, NaN too. The model scores
      log p(x_observed | z), and the guide sees zeros in their place (Mattei & Frellsen 2019, arXiv
      1812.02633, section 2.2), or a value of the support where 0 is outside it;
    - ``model(size=n)``: nothing observed, n data are drawn. Condition any site with
      ``pyro.condition(vae.model, data={"z": z})(size=n)``.

    Methods such as ``encode`` take arrays of NumPy for tensors, too.
    """

    model: nn.Module
    guide: nn.Module
    _is_conditional = False
    """Whether the programs need a second argument."""

    @property
    def prior(self) -> nn.Module:
        """``prior()`` is p(z)."""
        return self.model.get_submodule("prior")

    @property
    def posterior(self) -> nn.Module:
        """``posterior(x, ...)`` is q(z | x, ...)."""
        return self.guide.get_submodule("posterior")

    @property
    def likelihood(self) -> nn.Module:
        """``likelihood(z, ...)`` is p(x | z, ...)."""
        return self.model.get_submodule("likelihood")

    @property
    def observation(self) -> Observation:
        """The shape and support of one datum."""
        observation = self.model.observation
        assert isinstance(observation, Observation)
        return observation

    @property
    def labels(self) -> Labels | None:
        """What the programs' labels may be; None where they take none."""
        return None

    def parts(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return arguments(self)

    def replace(self: P, **changes: object) -> P:
        """Return a new pair with some parts changed and all others shared with this one.

        A prior made of the posterior (:class:`ppl_vae.priors.VampPrior`) follows a new posterior.

        Args:
            changes: new values for any of the constructor's arguments, such as
                ``prior=priors.GaussianMixture(10, components=500)``.

        Raises:
            TypeError: if a name is not one of the constructor's arguments.
        """
        parts = self.parts()
        unknown = sorted(changes.keys() - parts.keys())
        if unknown:
            raise TypeError(
                f"{type(self).__name__}.replace: unknown part {unknown[0]!r}; "
                f"the parts are {', '.join(parts)}"
            )
        parts.update(changes)
        prior: Any = parts["prior"]
        posterior = self._posterior_of_prior(parts)
        if "prior" not in changes and getattr(prior, "posterior", posterior) is not posterior:
            parts["prior"] = prior.with_posterior(posterior)
        new = type(self)(**parts)
        if not self.training:
            shared = set(self.modules())
            for part in new.modules():
                part.training = part.training and part in shared
        return new

    @of_arrays
    def check(self, data: HasParts | Tensor) -> None:
        """Raise an error if any of the data does not suit the likelihood.

        Args:
            data: a :class:`ppl_vae.data.Dataset`, whose grey values may be binarised where the
                likelihood is of 0 and 1, and whose integers are taken as they are where it is of
                counts, or a tensor ``(N, *event)``. The items of a data set have the likelihood's
                event shape, or are grey images of it without their channel, (28, 28) for
                (1, 28, 28); or they are flat, as many entries as one has; or they are of any shape
                with as many entries as a likelihood of flat data has, and are flattened in their
                own order. Missing entries are left out.

        Raises:
            TypeError: if the data are no floating-point tensor.
            ValueError: if a shape is wrong, or values are not finite or outside the support.
        """
        if isinstance(data, Tensor):
            self.observation.check_shape(data)
            self.observation.check_values(data)
            return
        _check_kind("check", data)
        own = hasattr(data, "as_counts")  # a data set of this package
        suited: HasParts = self.observation.suited(data) if own else data
        missing = getattr(suited, "mask", None) is not None
        for x in suited.in_parts():
            if missing:  # NaN, while what is observed is finite
                x = x.nan_to_num(nan=self.observation.filling)
            x = self.observation.arranged(x)
            if self.observation.is_boolean and ((x >= 0) & (x <= 1)).all():
                continue  # these are binarised when drawn
            self.observation.check_values(x)

    def initialise_from(self, data: HasParts | Tensor, *, seed: int = 0) -> None:
        """Start at data what looks like data: the pseudo-inputs of a prior made of the posterior.

        See :meth:`ppl_vae.priors.VampPrior.initialise_from`. Missing entries are as the guide sees
        them. A pair of other parts stays as it is, and so does a prior made of a posterior that
        sees latents and not x.

        Args:
            data: as for :meth:`check`.
            seed: of the choice.

        Raises:
            ValueError: if a shape is wrong, or values are not finite or outside the prior's bounds;
                nothing has changed then.
        """
        _check_kind("initialise_from", data)
        seed, prior = seed_of("initialise_from", seed), cast(Any, self.prior)
        if getattr(prior, "posterior", None) is not self.posterior:
            return
        if not callable(getattr(prior, "initialise_from", None)):
            return
        k, generator = prior.pseudo_inputs, torch.Generator().manual_seed(seed)
        chosen: list[Tensor] = []
        keys, ends = torch.empty(0), []
        missing = getattr(data, "mask", None) is not None
        for x in [data] if isinstance(data, Tensor) else data.in_parts():
            x = self.observation.arranged(x)
            if missing:
                x = x.nan_to_num(nan=self.observation.filling)
            ends.append(torch.stack(x.aminmax()))
            # Those with the greatest of random keys are k of all data, whatever the parts.
            keys = torch.cat([keys, torch.rand(len(x), generator=generator)])
            keys, index = keys.topk(min(k, len(keys)))
            chosen = [torch.cat([*chosen, x])[index.to(x.device)]]
        low, high = (end.item() for end in torch.stack(ends).aminmax())
        prior.initialise_from(chosen[0], values=(low, high), seed=seed)

    @of_arrays
    @inference
    def impute(
        self,
        x: Tensor | HasParts,
        mask: Tensor | None = None,
        *context: Tensor,
        num_samples: int | None = None,
        num_particles: int = 1000,
        mean: bool = False,
    ) -> Tensor:
        r"""Fill what is missing in x from the posterior predictive p(x_missing | x_observed).

        Sampling importance resampling (Rubin 1987; Mattei & Frellsen 2019, arXiv 1812.02633,
        section 3): latents of ``num_particles`` draws from the guide are resampled with weights
        proportional to p(z) p(x_observed | z) / q(z | x_observed), and x_missing drawn from
        p(x | z). Exact as ``num_particles`` grows.

        Args:
            x: the data, shape ``(batch, *event)``; missing entries may hold anything, NaN too. Or a
                :class:`ppl_vae.data.Dataset`, with its mask and, if the pair is conditional, its
                labels; grey values under a likelihood of 0 and 1 are binarised once, with seed 0.
            mask: boolean, of x's shape, True where x is observed; needed unless x is a data set.
            context: further arguments of the programs, such as labels.
            num_samples: how many imputations of each datum; one, without a leading dimension, if
                not given.
            num_particles: draws from the guide for each datum.
            mean: fill with E[x | z] of the resampled z instead of a draw.

        Returns:
            x with its missing entries filled, shape ``(batch, *event)``, or with ``num_samples``
            ``(num_samples, batch, *event)``.
        """
        fill = partial(
            imputed,
            self.model,
            self.guide,
            self.observation,
            num_samples=num_samples,
            num_particles=num_particles,
            mean=mean,
        )
        if isinstance(x, Tensor) or not isinstance(x, HasParts):
            if mask is None:
                raise TypeError("impute: mask must say which entries of x are observed, got None")
            return fill(x, mask, *context)
        if mask is not None or context:
            raise TypeError(f"impute: {x!r} brings all there is; leave out what was given beside")
        filled = [
            fill(
                values,
                torch.ones_like(values, dtype=torch.bool) if seen is None else seen,
                *([y] if self._is_conditional and y is not None else []),
            )
            for values, y, seen in drawn(self, x)
        ]
        return torch.cat(filled, dim=0 if num_samples is None else 1)

    def __repr__(self) -> str:
        return expression(self)

    def _posterior_of_prior(self, parts: dict[str, object]) -> object:
        """Return the posterior that a prior made of it follows."""
        return parts["posterior"]


def check_same_posterior(owner: str, prior: nn.Module, posterior: nn.Module) -> None:
    """Raise an error if the prior is made of another posterior than the pair's."""
    held = getattr(prior, "posterior", posterior)
    if held is not posterior:
        raise ValueError(
            f"{owner}: prior {type(prior).__name__} is made of another posterior than the pair's; "
            f"make it of the same object, or use prior.with_posterior(posterior)"
        )


def _check_kind(owner: str, data: object) -> None:
    if not isinstance(data, Tensor) and not hasattr(data, "in_parts"):
        raise TypeError(
            f"{owner}: data must be a Dataset or a tensor (N, *event), got {describe(data)}"
        )


def values_of(owner: str, p: Distribution, mean: bool) -> Tensor:
    """Return a draw, or the mean."""
    return p.mean if flag(owner, "mean", mean) else p.sample()


def mean_of(distribution: Distribution, draws: int = 100) -> Tensor:
    """Return the mean, or that of some draws where there is no closed form (flows)."""
    try:
        return distribution.mean
    except NotImplementedError:
        return distribution.sample((draws,)).mean(0)
