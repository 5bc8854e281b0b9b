"""The base class of model/guide pairs."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.constructor import Constructed, arguments, expression
from ppl_vae.errors import describe, flag, seed_of
from ppl_vae.labels import Labels
from ppl_vae.models.imputation import imputed
from ppl_vae.models.methods import DatasetLike, batches_for, inference_method, takes_arrays
from ppl_vae.models.observation import Observation

P = TypeVar("P", bound="Pair")


class Pair(Constructed, ABC):
    """A Pyro ``model`` and ``guide`` built from parts that are swapped on their own.

    ``model`` holds the generative parameters θ, ``guide`` the variational parameters φ. Both are
    modules and take the same arguments; the batch is one plate named ``data``:

    - ``model(x)``, ``guide(x)``: x observed, shape ``(batch, *event)``;
    - ``model(x, mask=m)``, ``guide(x, mask=m)``: only entries where the boolean m, of x's shape,
      is True are observed; the others may hold anything, even NaN. The model scores
      log p(x_observed | z); the guide sees zeros in place of missing entries (Mattei & Frellsen
      2019, arXiv 1812.02633, section 2.2), or a value of the support if 0 is outside it;
    - ``model(size=n)``: nothing is observed, n data are drawn. Condition any site with
      ``pyro.condition(vae.model, data={"z": z})(size=n)``.

    Methods such as ``encode`` take the same ``mask``, and NumPy arrays as well as tensors. Data are
    of shape ``(batch, *event)``, latents ``(batch, latent_dim)``, draws ``(n, *event)``.
    """

    model: nn.Module
    guide: nn.Module
    _is_conditional = False
    """Whether the programs require a second argument."""

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
        """The classes of the programs' labels; None if they take none."""
        return None

    def parts(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return arguments(self)

    def replace(self: P, **changes: object) -> P:
        """Return a new pair with some parts replaced and all others shared with this one.

        A prior built on the posterior (:class:`ppl_vae.priors.VampPrior`) follows a new posterior.

        Args:
            changes: new values of constructor arguments, such as
                ``prior=priors.GaussianMixture(10, components=500)``.
        """
        parts = self.parts()
        unknown = sorted(changes.keys() - parts.keys())
        if unknown:
            owner = f"{type(self).__name__}.replace"
            raise TypeError(
                f"{owner}: unknown part {unknown[0]!r}; the parts are {', '.join(parts)}"
            )
        parts.update(changes)
        prior: Any = parts["prior"]
        posterior = self._posterior_for_prior(parts)
        if "prior" not in changes and getattr(prior, "posterior", posterior) is not posterior:
            parts["prior"] = prior.with_posterior(posterior)
        new = type(self)(**parts)
        if not self.training:
            shared = set(self.modules())
            for part in new.modules():
                part.training = part.training and part in shared
        return new

    @takes_arrays
    def check(self, data: DatasetLike | Tensor) -> None:
        """Raise an error if any of the data are incompatible with the likelihood.

        Args:
            data: a tensor ``(N, *event)``, or a :class:`ppl_vae.data.Dataset`, whose grey values
                may be binarised for a likelihood of 0 and 1, and whose integers stay unscaled for
                one of counts. Its items have the likelihood's event shape, or that of grey images
                without the channel, (28, 28) for (1, 28, 28), or are flat; for a likelihood of
                flat data they may have any shape and are flattened in their own order. Missing
                entries are not checked.

        Raises:
            TypeError: if the data are not a floating-point tensor or a data set.
            ValueError: if a shape is wrong, or values are not finite or outside the support.
        """
        if isinstance(data, Tensor):
            self.observation.check_shape(data)
            self.observation.check_values(data)
            return
        _check_data_type("check", data)
        ours = hasattr(data, "as_counts")  # a data set of this package
        prepared: Any = self.observation.prepared(data) if ours else data
        # A look at all of a sparse matrix is as long as one at all of its zeros.
        held = prepared.observed() / prepared.scale if ours and prepared.is_sparse else None
        alike = held is not None and self.observation.accepts_anywhere(held)
        for x in self._parts(prepared):
            if alike:
                return  # its shape is right
            low, high = x.aminmax()
            if self.observation.is_boolean and low >= 0 and high <= 1:
                continue  # grey values, binarised when drawn
            self.observation.check_values(x)

    def _parts(self, data: DatasetLike | Tensor) -> Iterator[Tensor]:
        """Yield data in parts, in the event shape, with missing entries (NaN) filled."""
        missing = getattr(data, "mask", None) is not None
        for x in [data] if isinstance(data, Tensor) else data.in_parts():
            x = self.observation.arranged(x)
            yield self.observation.filled(x, ~x.isnan()) if missing else x

    def initialise_from(self, data: DatasetLike | Tensor, *, seed: int = 0) -> None:
        """Initialise the pseudo-inputs of a VampPrior at data; leave any other prior unchanged.

        See :meth:`ppl_vae.priors.VampPrior.initialise_from`. Missing entries are filled as for the
        guide. A VampPrior whose posterior sees latents, not x, is left unchanged, too.

        The data are as for :meth:`check`, the seed is that of their choice. Raises ValueError if a
        shape is wrong, or values are not finite or outside the prior's bounds; nothing has changed
        then.
        """
        _check_data_type("initialise_from", data)
        seed, prior = seed_of("initialise_from", seed), cast(Any, self.prior)
        on_x = getattr(prior, "posterior", None) is self.posterior
        if not (on_x and callable(getattr(prior, "initialise_from", None))):
            return
        k, generator = prior.pseudo_inputs, torch.Generator().manual_seed(seed)
        chosen: list[Tensor] = []
        keys, ends = torch.empty(0, device="cpu"), []
        for x in self._parts(data):
            ends.append(torch.stack(x.aminmax()))
            # The k data with the largest random keys are a sample, however the data are divided.
            keys = torch.cat([keys, torch.rand(len(x), generator=generator, device="cpu")])
            keys, index = keys.topk(min(k, len(keys)))
            chosen = [torch.cat([*chosen, x])[index.to(x.device)]]
        low, high = (end.item() for end in torch.stack(ends).aminmax())
        prior.initialise_from(chosen[0], values=(low, high), seed=seed)

    @inference_method
    def impute(
        self,
        x: Tensor | DatasetLike,
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
            x: the data, shape ``(batch, *event)``; missing entries may hold anything, even NaN. Or
                a :class:`ppl_vae.data.Dataset`, with its mask and, if the pair is conditional, its
                labels; grey values are binarised once, with seed 0, for a likelihood of 0 and 1.
            mask: boolean, of x's shape, True where x is observed; required unless x is a data set.
            context: further arguments of the programs, such as labels.
            num_samples: number of imputations per datum; None for one, without a leading dimension.
            num_particles: draws from the guide per datum.
            mean: fill with the best guess instead of a draw: the mean E[x_missing | x_observed],
                self-normalised over all particles (for the :class:`ppl_vae.likelihoods.Columns` of
                a table the most probable category and the median level where a column has them).
                With ``num_samples`` E[x | z] at each resampled z.

        Returns:
            x with its missing entries filled, shape ``(batch, *event)``, or with ``num_samples``
            ``(num_samples, batch, *event)``.

        Warns:
            UserWarning: if the guide is a point mass, as that of a VQ-VAE: all particles are alike,
                resampling corrects nothing, and x_missing is drawn from p(x | z) at that z.
        """
        batches: Iterable[tuple[Any, ...]] = [(x, mask, *context)]
        if isinstance(x, DatasetLike) and not isinstance(x, Tensor):
            if mask is not None or context:
                raise TypeError(f"impute: {x!r} brings its own mask and labels; give neither")
            batches = (
                (
                    values,
                    torch.ones_like(values, dtype=torch.bool) if seen is None else seen,
                    *([y] if self._is_conditional and y is not None else []),
                )
                for values, y, seen in batches_for(self, x)
            )
        return imputed(self, batches, num_samples, num_particles, mean)

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:
        """Alias of ``generate``."""
        generate: Any = self.generate
        return generate(*args, **kwargs)

    def __repr__(self) -> str:
        return expression(self)

    def _posterior_for_prior(self, parts: dict[str, object]) -> object:
        """Return the posterior that a prior such as the VampPrior is built on."""
        return parts["posterior"]


def check_same_posterior(owner: str, prior: nn.Module, posterior: nn.Module) -> None:
    """Raise an error if the prior is built on a posterior other than the pair's."""
    if getattr(prior, "posterior", posterior) is not posterior:
        raise ValueError(
            f"{owner}: prior {type(prior).__name__} is built on a posterior other than the pair's; "
            f"pass the same object to both, or prior.with_posterior(posterior)"
        )


def _check_data_type(owner: str, data: object) -> None:
    if not isinstance(data, Tensor) and not hasattr(data, "in_parts"):
        expected = "a Dataset or a tensor (N, *event)"
        raise TypeError(f"{owner}: data must be {expected}, got {describe(data)}")


def number_of(z: Tensor) -> int:
    """Return the number of latents to decode; raise TypeError unless they are a batch."""
    if not isinstance(z, Tensor) or z.dim() < 2:
        fix = "encode returns one"
        raise TypeError(
            f"decode: z must be a tensor of shape (batch, latent_dim), got {describe(z)}; {fix}"
        )
    return len(z)


def draw_or_mean(observation: Observation, p_x: Distribution, mean: bool) -> Tensor:
    """Return what ``generate`` returns: a draw of x, or the mean if ``mean``."""
    return observation.mean_of("generate", p_x) if flag("generate", "mean", mean) else p_x.sample()


def mean_of(distribution: Distribution, draws: int = 100) -> Tensor:
    """Return the mean, or the average of some draws if it has no closed form (flows)."""
    try:
        return distribution.mean
    except NotImplementedError:
        return distribution.sample((draws,)).mean(0)
