"""A variational autoencoder of a table, as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ppl_vae import evaluation, nets, posteriors, priors, training
from ppl_vae.columns import Column, Encoder, num_features
from ppl_vae.data import Dataset
from ppl_vae.errors import positive_int
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.likelihoods import Columns
from ppl_vae.models import VAE
from ppl_vae.random_state import restored, seed_everything
from ppl_vae.tables.families import columns_of
from ppl_vae.tables.schema import Schema


class TableVAE(TransformerMixin, BaseEstimator):
    """A VAE of the rows of a table, with a family for each column and cells that may be missing.

    What `fit` trains is a :class:`ppl_vae.VAE` with the likelihood
    :class:`ppl_vae.likelihoods.Columns`, by the importance-weighted bound on the observed cells:
    the MIWAE of Mattei & Frellsen 2019 (arXiv 1812.02633). It is there as ``pair_``, for everything
    that the library does with pairs.

    Args:
        latent_dim: number of latent dimensions.
        prior: p(z), of `latent_dim` dimensions; a standard normal if None.
        posterior: makes q(z | x) from a network: a class of :mod:`ppl_vae.posteriors` that has
            ``net_features(latent_dim)``.
        hidden: widths of the hidden layers of both networks.
        make_pair: makes the pair from the columns, in the place of the four arguments above, for
            networks of your own.
        kinds: of columns by name, where the inferred ones are not right; see
            :meth:`ppl_vae.tables.Schema.infer`.
        families: of kinds, such as ``{"real": "StudentT"}``; see `FAMILIES`.
        estimator: the bound; ``ImportanceWeightedELBO(num_particles=20)`` if None.
        steps: at most so many.
        batch_size: rows per step.
        learning_rate: of Adam.
        validation_fraction: share of rows held out, on which the bound is followed; the best
            weights are kept. 0 trains for all steps.
        patience: how many validations without an improvement end the training.
        validate_every: steps.
        compile: compile steps; see :func:`ppl_vae.training.fit`.
        seed: of weights, order, draws, and of every method that draws.
        progress: show a progress bar.

    Attributes:
        schema_: the columns as they came.
        columns_: their distributions.
        pair_: the trained pair.
        history_: of the training.
    """

    def __init__(
        self,
        *,
        latent_dim: int = 10,
        prior: nn.Module | None = None,
        posterior: Any = posteriors.DiagonalNormal,
        hidden: Sequence[int] = (128, 128),
        make_pair: Callable[[Sequence[Column]], VAE] | None = None,
        kinds: Mapping[Any, Any] | None = None,
        families: Mapping[str, str] | None = None,
        estimator: ELBO | None = None,
        steps: int = 10_000,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        validation_fraction: float = 0.1,
        patience: int = 10,
        validate_every: int = 250,
        compile: bool = False,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.latent_dim = latent_dim
        self.prior = prior
        self.posterior = posterior
        self.hidden = hidden
        self.make_pair = make_pair
        self.kinds = kinds
        self.families = families
        self.estimator = estimator
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.validate_every = validate_every
        self.compile = compile
        self.seed = seed
        self.progress = progress

    def fit(self, X: Any, y: None = None) -> TableVAE:
        """Infer the schema, build the pair and train it."""
        self.schema_ = Schema.infer(X, kinds=self.kinds or {})
        values, mask = self.schema_.encode(X)
        self.columns_ = columns_of(self.schema_, values, mask, self.families or {})
        with restored():
            seed_everything(self.seed)
            self.pair_ = self._pair(self.columns_)
        data = Dataset(_floats(values), mask=None if mask.all() else mask, name="table")
        validation, stopping = None, None
        if self.validation_fraction:
            data, validation = data.split(self.validation_fraction, seed=self.seed)
            stopping = training.EarlyStopping(self.patience)
        fitted = training.fit(
            self.pair_,
            data,
            steps=self.steps,
            batch_size=min(self.batch_size, len(data)),
            estimator=self.estimator or ImportanceWeightedELBO(num_particles=20),
            optimizer=partial(torch.optim.Adam, lr=self.learning_rate),
            validation=validation,
            validate_every=self.validate_every,
            validation_particles=20,
            stopping=stopping,
            compile=self.compile,
            seed=self.seed,
            progress=self.progress,
        )
        self.history_ = fitted
        return self

    def _pair(self, columns: Sequence[Column]) -> VAE:
        if self.make_pair is not None:
            return self.make_pair(columns)
        d = positive_int("TableVAE", "latent_dim", self.latent_dim)
        (outputs,) = Columns.net_shape(columns=columns)
        hidden = tuple(self.hidden)
        encoder = nets.MLP(num_features(columns), self.posterior.net_features(d), hidden=hidden)
        return VAE(
            prior=priors.StandardNormal(d) if self.prior is None else self.prior,
            posterior=self.posterior(Encoder(encoder, columns)),
            likelihood=Columns(nets.MLP(d, outputs, hidden=hidden), columns),
        )

    def _rows(self, X: Any) -> tuple[Tensor, Tensor]:
        """Return values (0 where missing) and mask of a table of the schema."""
        check_is_fitted(self, "pair_")
        values, mask = self.schema_.encode(X)
        return _floats(values), torch.as_tensor(mask)

    def transform(self, X: Any) -> np.ndarray:
        """Return the posterior mean of each row's latents, shape ``(rows, latent_dim)``."""
        x, mask = self._rows(X)
        return self.pair_.encode(x, mask=mask).numpy()

    def impute(self, X: Any, draws: int | None = None, *, num_particles: int = 1000) -> Any:
        """Fill missing cells.

        Args:
            X: a table of the schema.
            draws: so many imputations, each a draw from p(missing | observed); None for one with
                the best guess of each cell: means of numbers, the most probable category, the
                median level.
            num_particles: of importance resampling.
        """
        x, mask = self._rows(X)
        with restored():
            seed_everything(self.seed)
            filled = self.pair_.impute(
                x, mask, num_samples=draws, num_particles=num_particles, mean=draws is None
            )
        if draws is None:
            return self.schema_.decode(filled.double().numpy(), like=X)
        return [self.schema_.decode(one.double().numpy(), like=X) for one in filled]

    def sample(self, n: int) -> Any:
        """Return n synthetic rows."""
        check_is_fitted(self, "pair_")
        with restored():
            seed_everything(self.seed)
            rows = self.pair_.generate(n)
        return self.schema_.decode(rows.double().numpy())

    def log_prob(self, X: Any, *, num_samples: int = 1000) -> evaluation.LogLikelihood:
        """Return log p(observed cells) of each row, in nats, with its diagnostics."""
        x, mask = self._rows(X)
        return evaluation.log_likelihood(
            self.pair_, x, mask=mask, num_samples=num_samples, seed=self.seed
        )

    def score(self, X: Any, y: None = None) -> float:
        """Return the mean of `log_prob`, in nats per row."""
        return self.log_prob(X).log_px.mean().item()


def _floats(values: np.ndarray) -> Tensor:
    return torch.as_tensor(np.nan_to_num(values), dtype=torch.get_default_dtype())
