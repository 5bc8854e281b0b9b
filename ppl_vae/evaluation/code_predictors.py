"""How well factors are predicted from a code, and by which of its dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Factors
from ppl_vae.errors import describe


@dataclass(frozen=True)
class Predictions:
    """Classifiers of each factor from a code of D dimensions, on folds of the data.

    Args:
        importances: of each dimension for each factor, ``(folds, D, K)``.
        correct: whether the factors of each datum were predicted, by a classifier that was not
            fitted on it, shape ``(N, K)``.
    """

    importances: Tensor
    correct: Tensor


def folds_of(count: int, folds: int, seed: int) -> Tensor:
    """Return the fold of each datum, at random and of equal sizes, shape ``(N,)``."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order % folds


def predictions(
    owner: str, codes: Tensor, factors: Factors, classifier: Any, folds: int, seed: int
) -> Predictions:
    """Fit a classifier of each factor on all folds but one, for each of the folds."""
    from sklearn.base import clone
    from sklearn.ensemble import RandomForestClassifier

    if classifier is None:
        classifier = RandomForestClassifier(
            20, max_features=None, min_samples_leaf=5, random_state=seed % 2**32
        )
    if not (hasattr(classifier, "fit") and hasattr(classifier, "get_params")):
        raise TypeError(
            f"{owner}: classifier must be one of scikit-learn, such as RandomForestClassifier(), "
            f"got {describe(classifier)}"
        )
    if classifier.get_params().get("random_state", seed) is None:  # NumPy's global state
        classifier = clone(classifier).set_params(random_state=seed % 2**32)
    z, values = codes.double().cpu().numpy(), factors.values.cpu().numpy()
    fold = folds_of(len(z), folds, seed).numpy()
    importances = np.empty((folds, z.shape[1], values.shape[1]))
    correct = np.empty(values.shape, dtype=bool)
    for number in range(folds):
        train, test = fold != number, fold == number
        for k, value in enumerate(values.T):
            fitted = clone(classifier).fit(z[train], value[train])
            importances[number, :, k] = _importances(owner, fitted, z.shape[1])
            correct[test, k] = fitted.predict(z[test]) == value[test]
    return Predictions(torch.from_numpy(importances), torch.from_numpy(correct))


def _importances(owner: str, fitted: Any, dims: int) -> np.ndarray:
    if hasattr(fitted, "feature_importances_"):
        return np.asarray(fitted.feature_importances_)
    if hasattr(fitted, "coef_"):
        return np.abs(np.asarray(fitted.coef_)).reshape(-1, dims).sum(0)
    raise TypeError(
        f"{owner}: classifier must have feature_importances_ or coef_ once it is fitted, and "
        f"{type(fitted).__name__} has neither; use RandomForestClassifier()"
    )


@dataclass(frozen=True)
class Attributes:
    """What each dimension alone says about each factor: R², or the accuracy of thresholds.

    Args:
        codes: shape ``(N, D)``.
        factors: of the data.
        correct: of each categorical factor, by its number, whether its category was predicted by
            thresholds on each dimension that were not fitted on the datum, shape ``(N, D)``.
    """

    codes: np.ndarray
    factors: Factors
    correct: dict[int, np.ndarray]

    @classmethod
    def of(cls, codes: Tensor, factors: Factors, folds: int, seed: int) -> Attributes:
        """Fit thresholds for categorical factors on all folds but one, for each of the folds."""
        from sklearn.tree import DecisionTreeClassifier

        z = codes.double().cpu().numpy()
        fold = folds_of(len(z), folds, seed).numpy()
        correct = {}
        for k, name in enumerate(factors.names):
            if name not in factors.categorical:
                continue
            value = factors.values[:, k].cpu().numpy()
            found = np.empty(z.shape, dtype=bool)
            leaves = len(np.unique(value))
            tree = DecisionTreeClassifier(
                class_weight="balanced", max_leaf_nodes=leaves, random_state=0
            )
            for number in range(folds):
                train, test = fold != number, fold == number
                for j in range(z.shape[1]):
                    tree.fit(z[train, j : j + 1], value[train])
                    found[test, j] = tree.predict(z[test, j : j + 1]) == value[test]
            correct[k] = found
        return cls(z, factors, correct)

    def scores(self, kept: Tensor) -> Tensor:
        """Return the score of each dimension for each factor on some of the data, ``(D, K)``."""
        rows = kept.numpy()
        values = self.factors.values.cpu().numpy()
        found = [
            _balanced(self.correct[k][rows], values[rows, k])
            if k in self.correct
            else _squared_correlation(self.codes[rows], values[rows, k])
            for k in range(values.shape[1])
        ]
        return torch.from_numpy(np.stack(found, 1))


def _squared_correlation(codes: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return R² of the linear regression of a factor on each code, 0 for a constant one."""
    codes, centred = codes - codes.mean(0), value - value.mean()
    product = (codes**2).sum(0) * (centred**2).sum()
    covariance = codes.T @ centred
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(product > 0, covariance**2 / product, 0.0)


def _balanced(correct: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return the mean accuracy over categories, 0 at or below that of chance and 1 if all are."""
    different = np.unique(value)
    accuracy = np.mean([correct[value == v].mean(0) for v in different], 0)
    chance = 1 / len(different)
    return ((accuracy - chance) / (1 - chance)).clip(0)
