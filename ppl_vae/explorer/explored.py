"""A pair and its data, with all that a page asks about them; all results are on the CPU."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import quoted
from ppl_vae.estimators.masks import elementwise
from ppl_vae.evaluation import latent_units, log_likelihood, responsibilities
from ppl_vae.evaluation.latents import run_latents
from ppl_vae.explorer.colours import Colouring, of_codes
from ppl_vae.explorer.display import Cells, Display, Images
from ppl_vae.explorer.plane import Plane
from ppl_vae.models import Pair
from ppl_vae.models.pair import mean_of
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import seeded
from ppl_vae.report.latents import Latents
from ppl_vae.report.pair_data import PairData

if TYPE_CHECKING:
    from ppl_vae.tables import Column

_OWNER = "explore"
LOG_PX = "log p(x)"
_DRAWS_OF_UNITS = 10
_PRIOR_DRAWS = 500
_MOST_COLUMNS = 200
"""Of data with more elements, only those that are shown can be coloured by."""


@dataclass(frozen=True, eq=False)
class Imputation:
    """The missing elements of a datum given the others.

    Args:
        guess: the datum, filled with the best guess, shape ``(1, *event)``.
        draws: filled with draws, shape ``(n, *event)``; of images E[x | z] at draws of z.
        caveats: what was warned of.
    """

    guess: Tensor
    draws: Tensor
    caveats: tuple[str, ...] = ()


class Explored:
    """A pair with its data.

    Args:
        inputs: the pair and the arguments of its programs.
        display: how data are shown.
        columns: of a table.
        extra: further values to colour by.
        site: the latent on the map; the one next to the data if None.
        seed: of everything random.

    Attributes:
        means: E_q(z|x)[z] of the latent on the map, shape ``(N, D)``.
        order: its dimensions, the most informative first.
        kl: of each dimension in nats, NaN if unknown.
        log_px: log p(x) of each datum in nats, NaN where it was not estimated yet, see `estimate`.
        warnings: what was warned of.
    """

    def __init__(
        self,
        inputs: PairData,
        display: Display,
        *,
        columns: Sequence[Column] | None = None,
        extra: Sequence[Colouring] = (),
        site: str | None = None,
        seed: int = 0,
    ) -> None:
        self.inputs, self.display, self.columns, self.seed = inputs, display, columns, seed
        self._extra = tuple(extra)
        self.warnings: list[str] = []
        with self._running():
            self._latents = Latents(inputs)
        sites = self._latents.sites
        if site is not None and site not in sites:
            raise ValueError(f"{_OWNER}: site must be one of {quoted(sites)}, got {quoted(site)}")
        self.site = sites[0] if site is None else site
        self.means = self._latents.means[self.site].cpu()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            units = inputs.evaluate(
                latent_units, site=self.site, num_samples=_DRAWS_OF_UNITS, seed=seed
            )
        self.warnings += [str(w.message) for w in caught]
        self.kl, self.order = units.kl.cpu(), units.order().cpu()
        self.log_px = torch.full((len(self),), torch.nan, dtype=torch.float64)
        self._tails = torch.full((len(self),), torch.nan)

    def __len__(self) -> int:
        return len(self.inputs.x)

    @property
    def name(self) -> str:
        """Name of the pair."""
        return self.inputs.name

    @property
    def draws(self) -> Tensor:
        """One draw of the latent on the map for each datum, shape ``(N, D)``."""
        return self._latents.draws[self.site].cpu()

    def plane(self, how: str) -> Plane:
        """Return the plane of the map, see `ppl_vae.explorer.plane.PLANES`."""
        return Plane.of(how, self.means, self.kl, self.order)

    def title(self) -> str:
        """Return what the pair is, in a few words."""
        pair: Any = self.inputs.pair
        parts = [type(pair).__name__]
        if isinstance(pair, Pair):
            parts += [
                f"prior {type(pair.prior).__name__}",
                f"likelihood {type(pair.likelihood).__name__}",
            ]
        dims = self.means.shape[1]
        parts.append(f"{dims} latent dimension{'s' if dims > 1 else ''}")
        if len(self._latents.sites) > 1:
            parts.append(f"latent {self.site} of {', '.join(sorted(self._latents.sites))}")
        return ", ".join(parts)

    def caption(self, i: int) -> str:
        """Return what is known of a datum, in a few words."""
        data, labels = self.inputs.data, self.inputs.labels
        parts = [f"datum {data.index[i]}"]
        if labels is not None:
            label = int(labels[i])
            parts.append("no label" if label < 0 else f"label {data.class_name(label)}")
        if not self.log_px[i].isnan():
            parts.append(f"log p(x) {self.log_px[i]:.1f} nats")
        return ", ".join(parts)

    def condition(self, i: int) -> str | None:
        """Return what places are decoded given a datum, in words; None if nothing."""
        data, inputs = self.inputs.data, self.inputs
        what = None
        if inputs.context:
            what = "the context"
            if inputs.num_classes is not None and inputs.labels is not None:
                what = f"label {data.class_name(int(inputs.labels[i]))}"
        elif self._latents.labels:
            what = "the most probable label"
        if what is None:
            return None
        return f"{self.name}: places and sliders are decoded with {what} of datum {data.index[i]}"

    def prior_draws(self) -> Tensor:
        """Return draws of the latent on the map from the model, shape ``(n, D)``."""
        with self._running():
            return self._latents.generate(_PRIOR_DRAWS)[1][self.site].cpu()

    def data(self, index: Sequence[int]) -> Tensor:
        """Return data as the pair sees them, NaN where missing, shape ``(M, *event)``."""
        at = self._at(index)
        x, mask = self.inputs.x[at], self.inputs.mask
        return (x if mask is None else x.masked_fill(~mask[at], torch.nan)).cpu()

    def decode(self, z: Tensor, index: Sequence[int]) -> Tensor:
        """Return the best guess of x given z ``(M, D)`` of the latent on the map.

        Labels and context are those of the data at ``index``, one for each or one for all; other
        latents have their means.
        """
        return self._decode({self.site: z}, index, self._guess)

    def spread(self, z: Tensor, index: Sequence[int]) -> Tensor:
        """Return how sure p(x | z) is: standard deviations of numbers, NaN if unknown.

        Of a table's columns with categories it is the probability of the best guess.
        """
        return self._decode({self.site: z}, index, self._spread)

    def reconstruct(self, index: Sequence[int]) -> Tensor:
        """Return the best guess of x given the posterior means of data."""
        at = self._at(index)
        return self._decode({s: z[at] for s, z in self._latents.means.items()}, index, self._guess)

    def posterior(self, i: int, shown: int, points: int) -> tuple[Tensor, Tensor]:
        """Return ``shown`` decoded draws of q(z | x_i), and ``points`` draws ``(points, D)``."""
        at = self._at([i] * max(shown, points))
        args = tuple(t[at] for t in self.inputs.args)
        kwargs = {name: t[at] for name, t in self.inputs.kwargs.items()}
        with self._running():
            drawn = run_latents(_OWNER, self.inputs.pair, args, kwargs)
        z = {name: latent.z for name, latent in drawn.items()}
        decoded = self._decode({name: t[:shown] for name, t in z.items()}, [i], self._guess)
        return decoded, z[self.site][:points].cpu()

    def interpolate(self, a: int, b: int, steps: int) -> Tensor:
        """Return the best guess of x on the line between the posterior means of two data."""
        t = torch.linspace(0, 1, steps).unsqueeze(-1)
        latents = {}
        for site, z in self._latents.means.items():
            along = t.to(z)
            latents[site] = (1 - along) * z[a] + along * z[b]
        return self._decode(latents, [a], self._guess)

    def impute(self, i: int, hidden: Tensor, draws: int, particles: int) -> Imputation:
        """Return a datum with some elements hidden, and filled from p(hidden | others).

        Args:
            hidden: boolean, of the shape of a datum, beside those that are missing.

        Raises:
            NotImplementedError: if the pair cannot impute.
        """
        pair: Any = self.inputs.pair
        if not isinstance(pair, Pair):
            raise NotImplementedError(f"a {type(pair).__name__} does not impute")
        at = self._at([i])
        x, *context = (t[at] for t in self.inputs.args)
        mask = ~hidden.to(x.device).reshape(x.shape)
        if self.inputs.mask is not None:
            mask &= self.inputs.mask[at]
        means = isinstance(self.display, Images)
        with self._running(), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", UserWarning)
            guess = pair.impute(x, mask, *context, num_particles=particles, mean=True)
            drawn = pair.impute(
                x, mask, *context, num_samples=draws, num_particles=particles, mean=means
            )
        caveats = dict.fromkeys(str(warning.message) for warning in warned)
        return Imputation(guess.cpu(), drawn[:, 0].cpu(), tuple(caveats))

    def estimate(self, index: Sequence[int], num_samples: int) -> None:
        """Estimate log p(x) of some data by importance sampling."""
        at = self._at(index)
        args = tuple(t[at] for t in self.inputs.args)
        mask = None if self.inputs.mask is None else self.inputs.mask[at]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of k̂, which is counted
            found = log_likelihood(
                self.inputs.pair, *args, mask=mask, num_samples=num_samples, seed=self.seed
            )
        self.log_px[list(index)] = found.log_px.cpu().double()
        self._tails[list(index)] = found.pareto_k.cpu().float()

    def colourings(self) -> dict[str, Colouring]:
        """Return what the map can be coloured by, but for log p(x), by name."""
        found = [*self._of_labels(), *self._extra, *self._of_components(), *self._of_columns()]
        for d in self.order[:8].tolist():
            found.append(Colouring(f"z{d + 1}", self.means[:, d].double().numpy()))
        names = Counter([LOG_PX, *(colouring.name for colouring in found)])
        for colouring in self._extra:
            if names[colouring.name] > 1:
                raise ValueError(
                    f"{self.inputs.data.owner}: columns must have names that are not taken, got "
                    f"{quoted(colouring.name)}, which the map has; rename it"
                )
        return {colouring.name: colouring for colouring in found}

    def log_px_colouring(self) -> Colouring:
        """Return the colouring by log p(x), as far as it was estimated."""
        known = int((~self.log_px.isnan()).sum())
        heavy = int((self._tails > 0.7).sum())
        note = "nats per datum"
        if known < len(self):
            note += f"; {known} of {len(self)} data so far"
        if heavy:
            note += f"; unreliable (k̂ > 0.7) for {heavy} data"
        return Colouring(LOG_PX, self.log_px.numpy().copy(), note=note)

    def _of_labels(self) -> Iterator[Colouring]:
        labels, data = self.inputs.labels, self.inputs.data
        if labels is not None and (labels >= 0).any():
            names = [data.class_name(k) for k in range(int(labels.max()) + 1)]
            yield of_codes("label", labels.tolist(), names)
        for site, inferred in self._latents.labels.items():
            if inferred.dim() == 1:
                codes = inferred.long().tolist()
                names = [data.class_name(k) for k in range(max(codes) + 1)]
                yield of_codes(f"most probable {site}", codes, names)

    def _of_components(self) -> Iterator[Colouring]:
        if self._latents.mixture != self.site:
            return
        shares = self.inputs.evaluate(responsibilities, site=self.site, seed=self.seed)
        names = [f"k = {k}" for k in range(shares.shape[1])]
        yield of_codes("component", shares.argmax(1).tolist(), names)

    def _of_columns(self) -> Iterator[Colouring]:
        if not isinstance(self.display, Cells):
            return
        x = self.data(range(len(self))).flatten(1).double().numpy()
        if self.columns is None and (x >= 0).all():
            yield Colouring("total", x.sum(1))
        few = x.shape[1] <= _MOST_COLUMNS
        for j in range(x.shape[1]) if few else self.display.index.tolist():
            column = None if self.columns is None else self.columns[j]
            name = f"column {f'x{j + 1}' if column is None else column.name}"
            if column is not None and column.coded:
                codes = np.where(np.isnan(x[:, j]), -1, x[:, j]).astype(int).tolist()
                yield of_codes(name, codes, column.categories or ())
            else:
                yield Colouring(name, x[:, j])

    def _decode(self, latents: dict[str, Tensor], index: Sequence[int], summary: Any) -> Tensor:
        number = len(next(iter(latents.values())))
        rows = torch.as_tensor(index if len(index) == number else [*index] * number)
        like = self._latents.means[self.site]
        placed = {name: z.to(like) for name, z in latents.items()}
        with self._running():
            return self._latents.decode(placed, rows, summary).cpu()

    def _guess(self, p_x: Any) -> Tensor:
        """Return the mean of p(x | z); of a table the best guess of each column."""
        bare = elementwise(p_x)[0]
        likelihood: Any = getattr(self.inputs.pair, "likelihood", None)
        if hasattr(likelihood, "statistics"):
            guess: Tensor = likelihood.estimate(likelihood.statistics(bare))
            return guess
        return mean_of(bare)

    def _spread(self, p_x: Any) -> Tensor:
        bare, guess = elementwise(p_x)[0], self._guess(p_x)
        try:
            spread = bare.variance.sqrt()
        except NotImplementedError:
            spread = torch.full_like(guess, torch.nan)
        if self.columns is not None:
            coded, whole = (
                torch.tensor(each, device=guess.device)
                for each in (
                    [column.coded for column in self.columns],
                    [column.coded or column.kind == "count" for column in self.columns],
                )
            )
            possible = torch.where(whole, guess.round(), guess)  # the mean of a count is not
            spread = torch.where(coded, bare.base_dist.log_prob(possible).exp(), spread)
        return spread

    def _at(self, index: Sequence[int]) -> Tensor:
        return torch.as_tensor(list(index), device=self.inputs.x.device)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Run programs in evaluation mode, with the same draws each time."""
        pair = self.inputs.pair
        with torch.no_grad(), evaluating(pair.model, pair.guide), seeded(_OWNER, self.seed):
            yield
