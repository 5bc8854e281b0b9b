"""A variational autoencoder of a table, as a scikit-learn estimator."""

from __future__ import annotations

import inspect
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ppl_vae import estimators, evaluation, posteriors, training
from ppl_vae.columns import ColumnFamily
from ppl_vae.data import Dataset
from ppl_vae.errors import describe, path_of, positive_int, sequence
from ppl_vae.models import VAE
from ppl_vae.process_state import restored, seeded
from ppl_vae.random_state import seed_everything
from ppl_vae.tables.families import columns_of
from ppl_vae.tables.folder import read_folder, write_folder
from ppl_vae.tables.frames import Frame
from ppl_vae.tables.likelihood import log_likelihood, warn_of_rows
from ppl_vae.tables.pair import OF_PAIR, check_settings, made_pair
from ppl_vae.tables.schema import Schema
from ppl_vae.tables.values import array_of, as_table, check_digits, tensor_of

LOW_ESS = 50
"""Effective sample size below which conditional draws are said to be unreliable."""


class TableVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A VAE of the rows of a table: a family for each column, and cells that may be missing.

    What `fit` trains is a :class:`ppl_vae.VAE` with the likelihood
    :class:`ppl_vae.likelihoods.Columns`, under the importance-weighted bound of the observed cells
    (the MIWAE of Mattei & Frellsen 2019, arXiv 1812.02633). It is there as ``pair_``, for all that
    the library does with pairs. Results of every method follow from ``seed``.

    It is a scikit-learn transformer, for pipelines and searches; its score is a log-likelihood.
    Tables are as in :meth:`ppl_vae.tables.Schema.infer`: DataFrames, arrays, paths of files; and
    lists of rows. The columns of an array have no names and are known by their number.

    Args:
        latent_dim: number of latent dimensions.
        prior: p(z), of `latent_dim` dimensions, of which `fit` trains a copy; a standard normal if
            None.
        posterior: makes q(z | x) from a network: a class of :mod:`ppl_vae.posteriors`, or a
            ``functools.partial`` of one with its options.
        hidden: widths of the hidden layers of both networks.
        cell_dropout: the largest probability with which training hides an observed cell from the
            encoder, see :class:`ppl_vae.columns.Encoder`. With 0 it learns rows with as many cells
            missing as the training data have; 0.5 or 1 is for rows with more, and for conditional
            queries, at the price of a lower log p of complete rows.
        make_pair: makes the pair from the columns instead of the five arguments above: for networks
            of your own, for a model of missingness (see :class:`ppl_vae.VAE`).
        kinds: of columns by name, where the inferred ones are wrong; see ``Schema.infer``.
        families: by kind, such as ``{"real": "StudentT"}``; see `ppl_vae.tables.FAMILIES`.
        estimator: of the bound; ``ImportanceWeightedELBO(num_particles=20)`` if None.
        steps: at most so many.
        batch_size: rows per step.
        learning_rate: of Adam.
        validation_fraction: share of rows held out to follow the bound; the weights that are best
            there are kept. 0, or a share of less than a row, trains for all steps.
        patience: how many validations without an improvement end the training.
        validate_every: steps.
        compile: compile steps; see :func:`ppl_vae.training.fit`.
        device: to train and to compute on, such as ``"cuda"``; torch's default device if None. The
            pair stays there; tables, arrays and the results of `log_prob` are on the CPU.
        seed: of everything random.
        progress: show a progress bar.

    Attributes:
        schema_: the columns as they came.
        columns_: their distributions, standardised by the observed cells.
        pair_: the trained pair.
        training_: the history, a :class:`ppl_vae.training.FitResult`.
        n_features_in_: the number of columns.
        feature_names_in_: their names, of a table that has names which are strings.

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
        cell_dropout: int | float = 0.0,
        make_pair: Callable[[Sequence[ColumnFamily]], VAE] | None = None,
        kinds: Mapping[Any, Any] | None = None,
        families: Mapping[str, str] | None = None,
        estimator: ELBO | None = None,
        steps: int = 10_000,
        batch_size: int = 100,
        learning_rate: int | float = 1e-3,
        validation_fraction: int | float = 0.1,
        patience: int = 10,
        validate_every: int = 250,
        compile: bool = False,
        device: torch.device | str | int | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.latent_dim = latent_dim
        self.prior = prior
        self.posterior = posterior
        self.hidden = hidden
        self.cell_dropout = cell_dropout
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
        self.device = device
        self.seed = seed
        self.progress = progress

    def fit(
        self,
        X: Frame,
        y: Any = None,
        *,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> TableVAE:
        """Infer the schema, build the pair and train it, from new weights each time.

        Args:
            X: the table, of two rows or more. Rows without an observed cell teach nothing and are
                left out, unless the pair has a model of missingness.
            y: ignored, for pipelines.
            out: a folder for checkpoints, see :func:`ppl_vae.training.fit`.
            resume: go on from them.

        Raises:
            TypeError, ValueError: for a table that ``Schema.infer`` refuses, for numbers that the
                network's dtype does not tell apart, and for a wrong setting. What an earlier `fit`
                left is as it was.
        """
        defaults = {n: p.default for n, p in inspect.signature(TableVAE).parameters.items()}
        given = {name: getattr(self, name) for name in defaults}
        check_settings(given, defaults)
        X = as_table(X, self.kinds)
        if getattr(X, "shape", ())[:1] == (1,):
            raise ValueError(
                "TableVAE.fit: the table has one row (n_samples=1); give two or more, as one does "
                "not say by how much rows differ"
            )
        schema = Schema.infer(X, kinds=self.kinds)
        values, mask = schema.encode(X)
        columns = columns_of(schema, values, mask, self.families or {})
        with restored():
            seed_everything(self.seed)
            pair = made_pair(columns, **{name: given[name] for name in OF_PAIR})
        if self.device is not None:
            pair.to(self.device)
        dtype = next(pair.parameters()).dtype
        check_digits(schema, values, dtype)
        x = tensor_of(schema, values, dtype, "TableVAE.fit")
        if pair.missingness is None:
            seen = mask.any(axis=1)
            x, mask = x[torch.from_numpy(seen)], mask[seen]
        data = Dataset(x, name="table", mask=None if mask.all() else mask)
        validation = stopping = None
        held_out = round(self.validation_fraction * len(data))
        if held_out == len(data):
            raise ValueError(
                f"TableVAE: validation_fraction={self.validation_fraction} leaves none of "
                f"{len(data)} rows to train on; give a smaller share"
            )
        if held_out:
            data, validation = data.split(self.validation_fraction, seed=self.seed)
            stopping = training.EarlyStopping(self.patience)
        history = training.fit(
            pair,
            data,
            steps=self.steps,
            batch_size=min(self.batch_size, len(data)),
            estimator=deepcopy(self.estimator)
            or estimators.ImportanceWeightedELBO(num_particles=20),
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
        self._keep(schema, pair)
        self.training_ = history
        return self

    def _keep(self, schema: Schema, pair: VAE) -> None:
        """Set the attributes of a fitted estimator."""
        self.schema_, self.pair_ = schema, pair
        self.columns_ = list(pair.likelihood.columns)  # type: ignore[arg-type]
        self.n_features_in_ = len(schema)
        self._n_features_out = pair.prior().event_shape[0]
        if schema.library != "array" and all(isinstance(name, str) for name in schema.names):
            self.feature_names_in_ = np.array(schema.names, dtype=object)
        elif hasattr(self, "feature_names_in_"):  # of an earlier table
            del self.feature_names_in_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []  # latents are in torch's
        return tags

    def _more_tags(self) -> dict[str, Any]:
        """Return the tags for scikit-learn before 1.6."""
        return {"allow_nan": True, "X_types": ["2darray", "string"], "preserves_dtype": []}

    def transform(self, X: Frame) -> np.ndarray:
        """Return E[z | observed cells] under the guide for each row, ``(rows, latent_dim)``.

        Of a posterior whose mean has no closed form, such as a flow, it is the mean of 100 draws.
        """
        _, x, mask = self._rows("transform", X)
        with self._seeded():
            latents: np.ndarray = self.pair_.encode(x, mask=mask).cpu().numpy()
        return latents

    def impute(self, X: Frame, draws: int | None = None, *, num_particles: int = 1000) -> Any:
        """Return the table with its missing cells filled; observed cells are as they came.

        Args:
            X: a table of the schema.
            draws: so many tables, with draws from p(missing | observed); None for one table with
                the best guess of each cell: the mean of real values and counts, the geometric mean
                of positive ones, the most probable category, the median level.
            num_particles: of importance sampling, see ``Pair.impute``.
        """
        draws = None if draws is None else positive_int("impute", "draws", draws)
        num_particles = positive_int("impute", "num_particles", num_particles)
        table, x, mask = self._rows("impute", X)
        filled = x.expand(draws or 1, *x.shape).clone()
        gaps = ~mask.all(dim=1)
        if gaps.any():
            with self._seeded():
                filled[:, gaps] = self.pair_.impute(
                    x[gaps],
                    mask[gaps],
                    num_samples=draws,
                    num_particles=num_particles,
                    mean=draws is None,
                )
        tables = [self._table(one, like=table) for one in filled]
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
            n: rows; with a table ``given`` so many for each of its rows, one after the other.
            given: values of some columns, ``{"smoker": True}``, or a table of them. Cells that are
                not given say nothing, also where the pair has a model of missingness.
            num_particles: of importance resampling, with ``given``.

        Warns:
            UserWarning: if the effective sample size of a given row's particles is below 50: draws
                are then repeated, and miss part of the distribution.
        """
        check_is_fitted(self, "pair_")
        n = positive_int("sample", "n", n)
        num_particles = positive_int("sample", "num_particles", num_particles)
        if given is None:
            with self._seeded():
                return self._table(self.pair_.generate(n))
        values, seen = self.schema_.encode_some(given)
        if not seen.any():
            raise ValueError(f"sample: given must have a value, got {describe(given)}")
        x, mask = self._tensor(values, "sample"), self._mask(seen)
        self._check_ess(x, mask, num_particles)
        with self._seeded():
            rows = self._query_pair().impute(x, mask, num_samples=n, num_particles=num_particles)
        given_ones = torch.from_numpy(values)  # with all their digits
        rows = torch.where(mask.cpu(), given_ones, torch.from_numpy(array_of(rows)))
        return self._table(rows.transpose(0, 1).flatten(0, 1))

    def log_prob(
        self, X: Frame, *, given: Sequence[Any] = (), num_samples: int = 1000
    ) -> evaluation.LogLikelihood:
        """Return log p of each row's observed cells in nats, with diagnostics.

        It is the density of values as they came, whatever they were standardised by: numbers of
        different models compare. Of a pair with a model of missingness it is log p(x_observed, m).

        Args:
            X: a table of the schema.
            given: names of columns to condition on: log p(others | these), a difference of two
                estimates; its standard error is that of the difference, effective sample size and
                k̂ are the worse of the two. A model of missingness has no part in it.
            num_samples: importance samples per row, see ``evaluation.log_likelihood``.

        Warns:
            UserWarning: with the number of rows whose k̂ > 0.7, if any, or if there is no k̂.
        """
        _, x, mask = self._rows("log_prob", X)
        names = list(sequence("log_prob", "given", given, "names of columns"))
        for name in names:
            self.schema_[name]  # raises a KeyError that names the columns
        if not names:
            found = self._log_likelihood(self.pair_, x, mask, num_samples, self.seed)
            warn_of_rows("TableVAE.log_prob", found, num_samples)
            return found
        known = self._mask(np.array([name in names for name in self.schema_.names]))
        pair = self._query_pair()
        joint = self._log_likelihood(pair, x, mask, num_samples, self.seed)
        other_seed = (self.seed + 1) % 2**64
        condition = self._log_likelihood(pair, x, mask & known, num_samples, other_seed)
        found = evaluation.LogLikelihood(
            log_px=joint.log_px - condition.log_px,
            standard_error=joint.standard_error.hypot(condition.standard_error),
            ess=joint.ess.minimum(condition.ess),
            pareto_k=joint.pareto_k.maximum(condition.pareto_k),
        )
        warn_of_rows("TableVAE.log_prob", found, num_samples)
        return found

    def score(self, X: Frame, y: Any = None) -> float:
        """Return the mean of `log_prob`, in nats per row; higher is better. ``y`` is ignored."""
        return self.log_prob(X).log_px.double().mean().item()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Save the pair (:func:`ppl_vae.save`) and, as ``table.json``, the schema in a folder."""
        check_is_fitted(self, "pair_")
        return write_folder(folder, self.pair_, self.schema_, self.seed)

    def _rows(self, owner: str, X: Frame) -> tuple[Any, Tensor, Tensor]:
        """Return a table of the schema, its values (0 where missing) and its mask."""
        check_is_fitted(self, "pair_")
        table = as_table(X, self.schema_.kinds)
        plain = isinstance(table, np.ndarray) and table.ndim == 2
        if plain and table.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {table.shape[1]} features, but TableVAE is expecting "
                f"{self.n_features_in_} features as input"
            )
        values, mask = self.schema_.encode(table)
        return table, self._tensor(values, owner), self._mask(mask)

    def _tensor(self, values: np.ndarray, owner: str) -> Tensor:
        like = next(self.pair_.parameters())
        return tensor_of(self.schema_, values, like.dtype, f"TableVAE.{owner}").to(like.device)

    def _mask(self, observed: np.ndarray) -> Tensor:
        return torch.from_numpy(observed).to(next(self.pair_.parameters()).device)

    def _table(self, rows: Tensor, like: Any = None) -> Any:
        # What is beyond the network's dtype becomes its largest number.
        finite = rows.nan_to_num(nan=math.nan)
        return self.schema_.decode(array_of(finite), like=like)

    def _seeded(self) -> Any:
        return seeded("TableVAE", self.seed)

    def _query_pair(self) -> VAE:
        """Return the pair in which a cell that is not given is not a cell that went missing."""
        pair = self.pair_
        return pair if pair.missingness is None else pair.replace(missingness=None)

    def _log_likelihood(
        self, pair: VAE, x: Tensor, mask: Tensor, num_samples: int, seed: int
    ) -> evaluation.LogLikelihood:
        found = log_likelihood(pair, x, mask, num_samples=num_samples, seed=seed)
        names = ("log_px", "standard_error", "ess", "pareto_k")
        return replace(found, **{name: getattr(found, name).cpu() for name in names})

    def _check_ess(self, x: Tensor, mask: Tensor, num_particles: int) -> None:
        pair = self._query_pair()
        ess = self._log_likelihood(pair, x, mask, num_particles, self.seed).ess
        low = (ess < LOW_ESS).nonzero()[:, 0].tolist()
        if low:
            warnings.warn(
                f"sample: the effective sample size is {ess[low[0]].item():.0f} of {num_particles} "
                f"particles for given row {low[0]}, below {LOW_ESS} for {len(low)} of {len(ess)} "
                f"rows: draws repeat; give more num_particles or fewer columns",
                stacklevel=3,
            )


def load(
    folder: str | os.PathLike[str], *, device: torch.device | str | int | None = None
) -> TableVAE:
    """Load what :meth:`TableVAE.save` wrote; it answers all questions, and has no history.

    Of the settings it has ``latent_dim``, ``seed`` and the ``device`` given here, whatever the pair
    was trained on; torch's default device if None.

    Raises FileNotFoundError or ValueError if there is no table, or its pair has other columns.
    """
    pair, schema, seed = read_folder(folder, device)
    latent_dim: Any = getattr(pair.prior, "latent_dim", pair.prior().event_shape[0])
    vae = TableVAE(latent_dim=latent_dim, device=device, seed=seed)
    vae._keep(schema, pair)
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
