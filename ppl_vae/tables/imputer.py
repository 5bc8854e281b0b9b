"""Filling the missing cells of a table, as a step of scikit-learn's pipelines."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from ppl_vae.errors import describe, flag, positive_int
from ppl_vae.tables.frames import Frame
from ppl_vae.tables.vae import TableVAE


class TableImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Fills missing cells from p(missing | observed) of a :class:`TableVAE`.

    It takes the place of scikit-learn's ``IterativeImputer``, for columns of any kind. An array
    becomes an array, a DataFrame one of the same dtypes and categories (``set_output`` chooses
    another container); cells that were observed are as they came. For several draws of each cell
    see :meth:`TableVAE.impute`; or, as with ``IterativeImputer``, use ``sample_posterior`` with a
    ``vae__seed`` for each.

    Args:
        vae: how to model the table; its settings are cloned and fitted. ``TableVAE()`` if None.
        sample_posterior: fill with a draw from p(missing | observed) instead of its best guess.
        num_particles: of importance sampling.

    Attributes:
        vae_: the fitted :class:`TableVAE`.

    Example:
        >>> import pandas as pd
        >>> people = pd.DataFrame({"age": [31, 45, None, 62] * 5, "city": ["Bern", "Graz"] * 10})
        >>> imputer = TableImputer(TableVAE(latent_dim=2, hidden=(8,), steps=5))
        >>> int(imputer.fit_transform(people).isna().sum().sum())
        0
    """

    def __init__(
        self,
        vae: TableVAE | None = None,
        *,
        sample_posterior: bool = False,
        num_particles: int = 1000,
    ) -> None:
        self.vae = vae
        self.sample_posterior = sample_posterior
        self.num_particles = num_particles

    def fit(self, X: Frame, y: Any = None) -> TableImputer:
        """Fit the model to a table; see :meth:`TableVAE.fit`. ``y`` is ignored."""
        if self.vae is not None and not isinstance(self.vae, TableVAE):
            raise TypeError(
                f"TableImputer: vae must be a TableVAE or None, got {describe(self.vae)}"
            )
        self._check_settings()
        self.vae_ = (TableVAE() if self.vae is None else clone(self.vae)).fit(X)
        return self

    def transform(self, X: Frame) -> Any:
        """Return the table with its missing cells filled; see :meth:`TableVAE.impute`."""
        check_is_fitted(self, "vae_")
        self._check_settings()
        draws = 1 if self.sample_posterior else None
        filled = self.vae_.impute(X, draws, num_particles=self.num_particles)
        return filled if draws is None else filled[0]

    def _check_settings(self) -> None:
        flag("TableImputer", "sample_posterior", self.sample_posterior)
        positive_int("TableImputer", "num_particles", self.num_particles)

    @property
    def n_features_in_(self) -> int:
        """The number of columns."""
        return self.vae_.n_features_in_

    @property
    def feature_names_in_(self) -> np.ndarray:
        """The names of the columns, of a table that has names which are strings."""
        return self.vae_.feature_names_in_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = True
        return tags

    def _more_tags(self) -> dict[str, Any]:
        """Return the tags for scikit-learn before 1.6."""
        return {"allow_nan": True, "X_types": ["2darray", "string"]}
