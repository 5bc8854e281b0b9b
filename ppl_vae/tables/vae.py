"""A variational autoencoder of a table, as a scikit-learn estimator."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ppl_vae import estimators, evaluation, io, likelihoods, nets, posteriors, priors, training
from ppl_vae.columns import Column, Encoder, num_features
from ppl_vae.data import Dataset
from ppl_vae.errors import describe, path_of, positive_int
from ppl_vae.io.atomic import write_file
from ppl_vae.models import VAE
from ppl_vae.process_state import seeded
from ppl_vae.random_state import restored, seed_everything
from ppl_vae.tables.families import columns_of
from ppl_vae.tables.frames import Frame
from ppl_vae.tables.schema import Schema

TABLE = "table.json"
"""What a folder has beside the pair: the schema, and the settings of methods."""
LOW_ESS = 50
"""Effective sample size below which conditional draws are said to be unreliable."""


class TableVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A VAE of the rows of a table: a family for each column, and cells that may be missing.

    What `fit` trains is a :class:`ppl_vae.VAE` with the likelihood
    :class:`ppl_vae.likelihoods.Columns`, under the importance-weighted bound of the observed cells
    (the MIWAE of Mattei & Frellsen 2019, arXiv 1812.02633). It is there as ``pair_``, for all that
    the library does with pairs. Results of every method follow from ``seed``.

    Tables are as in :meth:`ppl_vae.tables.Schema.infer`: DataFrames, arrays, paths of files.

    Args:
        latent_dim: number of latent dimensions.
        prior: p(z), of `latent_dim` dimensions; a standard normal if None.
        posterior: makes q(z | x) from a network: a class of :mod:`ppl_vae.posteriors` with
            ``net_features(latent_dim)``.
        hidden: widths of the hidden layers of both networks.
        make_pair: makes the pair from the columns instead of the four arguments above: for networks
            of your own, for a model of missingness (see :class:`ppl_vae.VAE`).
        kinds: of columns by name, where the inferred ones are wrong; see ``Schema.infer``.
        families: by kind, such as ``{"real": "StudentT"}``; see `ppl_vae.tables.FAMILIES`.
        estimator: of the bound; ``ImportanceWeightedELBO(num_particles=20)`` if None.
        steps: at most so many.
        batch_size: rows per step.
        learning_rate: of Adam.
        validation_fraction: share of rows held out to follow the bound; the weights that are best
            there are kept. 0 trains for all steps.
        patience: how many validations without an improvement end the training.
        validate_every: steps.
        compile: compile steps; see :func:`ppl_vae.training.fit`.
        seed: of everything random.
        progress: show a progress bar.

    Attributes:
        schema_: the columns as they came.
        columns_: their distributions, standardised by the observed cells.
        pair_: the trained pair.
        training_: the history, a :class:`ppl_vae.training.FitResult`.

    Example:
        >>> import pandas as pd
        >>> people = pd.DataFrame({"age": [31, 45, None, 62] * 5, "city": ["Bern", "Graz"] * 10})
        >>> vae = TableVAE(latent_dim=2, hidden=(8,), steps=5).fit(people)
        >>> int(vae.impute(people).isna().sum().sum())
        0
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

    def fit(
        self,
        X: Frame,
        y: None = None,
        *,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> TableVAE:
        """Infer the schema, build the pair and train it.

        Args:
            X: the table.
            y: ignored, for pipelines.
            out: a folder for checkpoints, see :func:`ppl_vae.training.fit`.
            resume: go on from them.
        """
        self.schema_ = Schema.infer(X, kinds=self.kinds)
        values, mask = self.schema_.encode(X)
        self.n_features_in_ = len(self.schema_)
        if self.schema_.library != "array" and all(isinstance(n, str) for n in self.schema_.names):
            self.feature_names_in_ = np.array(self.schema_.names, dtype=object)
        self.columns_ = columns_of(self.schema_, values, mask, self.families or {})
        with restored():
            seed_everything(self.seed)
            self.pair_ = self._pair(self.columns_)
        self._n_features_out = self.pair_.prior().event_shape[0]
        data = Dataset(_floats(values), name="table", mask=None if mask.all() else mask)
        validation = stopping = None
        if self.validation_fraction and len(data) > 1:
            data, validation = data.split(self.validation_fraction, seed=self.seed)
            stopping = training.EarlyStopping(self.patience)
        self.training_ = training.fit(
            self.pair_,
            data,
            steps=self.steps,
            batch_size=min(self.batch_size, len(data)),
            estimator=self.estimator or estimators.ImportanceWeightedELBO(num_particles=20),
            optimizer=partial(torch.optim.Adam, lr=self.learning_rate),
            validation=validation,
            validate_every=self.validate_every,
            validation_particles=20,
            stopping=stopping,
            out=None if out is None else path_of("fit", "out", out),
            resume=resume,
            compile=self.compile,
            seed=self.seed,
            progress=self.progress,
        )
        return self

    def _pair(self, columns: Sequence[Column]) -> VAE:
        if self.make_pair is not None:
            return self.make_pair(columns)
        d = positive_int("TableVAE", "latent_dim", self.latent_dim)
        (outputs,) = likelihoods.Columns.net_shape(columns=columns)
        hidden = tuple(self.hidden)
        encoder = nets.MLP(num_features(columns), self.posterior.net_features(d), hidden=hidden)
        decoder = nets.MLP(d, outputs, hidden=hidden)
        return VAE(
            prior=priors.StandardNormal(d) if self.prior is None else self.prior,
            posterior=self.posterior(Encoder(encoder, columns)),
            likelihood=likelihoods.Columns(decoder, columns),
        )

    def transform(self, X: Frame) -> np.ndarray:
        """Return E[z | observed cells] under the guide for each row, ``(rows, latent_dim)``."""
        x, mask = self._rows(X)
        return self.pair_.encode(x, mask=mask).numpy()

    def impute(self, X: Frame, draws: int | None = None, *, num_particles: int = 1000) -> Any:
        """Return the table with its missing cells filled.

        Args:
            X: a table of the schema.
            draws: so many tables, with draws from p(missing | observed); None for one table with
                the best guess of each cell: the mean of real values and counts, the geometric mean
                of positive ones, the most probable category, the median level.
            num_particles: of importance sampling, see ``Pair.impute``.
        """
        x, mask = self._rows(X)
        with self._seeded():
            filled = self.pair_.impute(
                x, mask, num_samples=draws, num_particles=num_particles, mean=draws is None
            )
        tables = [self._table(one, like=X) for one in (filled[None] if draws is None else filled)]
        return tables[0] if draws is None else tables

    def sample(
        self,
        n: int = 1,
        *,
        given: Mapping[Any, Any] | Frame | None = None,
        num_particles: int = 10_000,
    ) -> Any:
        """Return synthetic rows, drawn from p(x), or from p(other columns | given ones).

        Args:
            n: rows; with a table ``given`` so many for each of its rows.
            given: values of some columns, ``{"smoker": True}``, or a table of them.
            num_particles: of importance resampling, with ``given``.

        Warns:
            UserWarning: if the effective sample size of a given row's particles is below 50: draws
                are then repeated, and miss part of the distribution.
        """
        check_is_fitted(self, "pair_")
        n = positive_int("sample", "n", n)
        if given is None:
            with self._seeded():
                return self._table(self.pair_.generate(n))
        x, mask = self._given("sample", given)
        self._check_ess(x, mask, num_particles)
        with self._seeded():
            rows = self.pair_.impute(x, mask, num_samples=n, num_particles=num_particles)
        return self._table(rows.transpose(0, 1).flatten(0, 1))

    def log_prob(
        self, X: Frame, *, given: Sequence[Any] = (), num_samples: int = 1000
    ) -> evaluation.LogLikelihood:
        """Return log p of each row's observed cells in nats, with diagnostics.

        Args:
            X: a table of the schema.
            given: names of columns to condition on: log p(others | these), a difference of two
                estimates; its standard error is that of the difference, effective sample size and
                k̂ are the worse of the two.
            num_samples: importance samples per row, see ``evaluation.log_likelihood``.
        """
        x, mask = self._rows(X)
        joint = self._log_likelihood(x, mask, num_samples, self.seed)
        if not len(given):
            return joint
        known = torch.tensor([name in set(given) for name in self.schema_.names])
        for name in given:
            self.schema_[name]  # raises a KeyError that names the columns
        condition = self._log_likelihood(x, mask & known, num_samples, self.seed + 1)
        return evaluation.LogLikelihood(
            log_px=joint.log_px - condition.log_px,
            standard_error=joint.standard_error.hypot(condition.standard_error),
            ess=joint.ess.minimum(condition.ess),
            pareto_k=joint.pareto_k.maximum(condition.pareto_k),
        )

    def score(self, X: Frame, y: None = None) -> float:
        """Return the mean of `log_prob`, in nats per row; higher is better."""
        return self.log_prob(X).log_px.mean().item()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Save the pair (:func:`ppl_vae.save`) and, as ``table.json``, the schema in a folder."""
        check_is_fitted(self, "pair_")
        path = io.save(self.pair_, folder)
        table = {"schema": self.schema_.to_dict(), "seed": self.seed}
        write_file(path / TABLE, json.dumps(table, indent=1, ensure_ascii=False) + "\n")
        return path

    def _rows(self, X: Frame) -> tuple[Tensor, Tensor]:
        """Return values (0 where missing) and mask of a table of the schema."""
        check_is_fitted(self, "pair_")
        values, mask = self.schema_.encode(X)
        return _floats(values), torch.as_tensor(mask)

    def _given(self, owner: str, given: Any) -> tuple[Tensor, Tensor]:
        """Return values and mask of rows of which some columns are given."""
        values, mask = self.schema_.encode_some(given)
        if not mask.any():
            raise ValueError(f"{owner}: given must have a value, got {describe(given)}")
        return _floats(values), torch.as_tensor(mask)

    def _table(self, rows: Tensor, like: Any = None) -> Any:
        return self.schema_.decode(rows.double().numpy(), like=like)

    def _seeded(self) -> Any:
        return seeded("TableVAE", self.seed)

    def _log_likelihood(
        self, x: Tensor, mask: Tensor, num_samples: int, seed: int
    ) -> evaluation.LogLikelihood:
        return evaluation.log_likelihood(
            self.pair_, x, mask=None if mask.all() else mask, num_samples=num_samples, seed=seed
        )

    def _check_ess(self, x: Tensor, mask: Tensor, num_particles: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of k̂; what matters here is the ESS
            ess = self._log_likelihood(x, mask, num_particles, self.seed).ess
        low = (ess < LOW_ESS).nonzero()[:, 0].tolist()
        if low:
            warnings.warn(
                f"sample: the effective sample size is {ess[low[0]].item():.0f} of {num_particles} "
                f"particles for given row {low[0]}, below {LOW_ESS} for {len(low)} of {len(ess)} "
                f"rows: draws repeat; give more num_particles or fewer columns",
                stacklevel=3,
            )


def load(folder: str | os.PathLike[str]) -> TableVAE:
    """Load what :meth:`TableVAE.save` wrote; it answers all questions, and has no history.

    Raises FileNotFoundError or ValueError if there is no table, or its pair has other columns.
    """
    path = path_of("load", "folder", folder)
    pair: Any = io.load(path)
    try:
        table = json.loads((path / TABLE).read_text(encoding="utf-8"))
        vae = TableVAE(seed=table["seed"])
        vae.schema_ = Schema.from_dict(table["schema"])
    except FileNotFoundError:
        raise FileNotFoundError(
            f"load: {path} has no {TABLE}; a pair alone is loaded by ppl_vae.load"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"load: {path / TABLE} is damaged: {error}") from error
    vae.columns_ = list(pair.likelihood.columns)
    if len(vae.columns_) != len(vae.schema_):
        raise ValueError(
            f"load: {path} has a table of {len(vae.schema_)} columns and a pair of "
            f"{len(vae.columns_)}; they are of different trainings, save again"
        )
    vae.pair_ = pair
    vae.n_features_in_ = len(vae.schema_)
    vae._n_features_out = pair.prior().event_shape[0]
    return vae


def fit(X: Frame, **options: Any) -> TableVAE:
    """Return ``TableVAE(**options).fit(X)``.

    Example:
        >>> import pandas as pd
        >>> from ppl_vae import tables
        >>> people = pd.DataFrame({"age": [31, 45, None, 62] * 5, "city": ["Bern", "Graz"] * 10})
        >>> t = tables.fit(people, latent_dim=2, hidden=(8,), steps=5)
        >>> t.sample(3).columns.tolist()
        ['age', 'city']
    """
    return TableVAE(**options).fit(X)


def _floats(values: np.ndarray) -> Tensor:
    return torch.as_tensor(np.nan_to_num(values), dtype=torch.get_default_dtype())
