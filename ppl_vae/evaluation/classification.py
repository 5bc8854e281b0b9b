"""Accuracy and reliability of q(y | x)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch.distributions.constraints import real

from ppl_vae.errors import describe, number, positive_int
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.inputs import Array, Data, program_inputs
from ppl_vae.evaluation.labels import check_labels, known_labels
from ppl_vae.evaluation.results import Result
from ppl_vae.models import SemiSupervisedVAE, StackedVAE
from ppl_vae.models.observation import Observation
from ppl_vae.module_modes import evaluating
from ppl_vae.tensors import as_tensor


def accuracy(
    pair: SemiSupervisedVAE | StackedVAE,
    x: Data,
    y: Array | None = None,
    *,
    mask: Array | None = None,
    batch_size: int = 1000,
) -> Estimate:
    """Return the fraction of data whose most probable label under q(y | x) is y.

    Grey values are classified as they are, also those of a data set.

    Args:
        pair: a pair with ``classify``.
        x: the data: a `ppl_vae.data.Dataset` with labels; batches of x and y; or a tensor or
            array, shape ``(N, *event)``.
        y: a label for each datum, integers from 0, shape ``(N,)``, if x does not contain them.
            Data whose label is -1 are left out, and are not in ``count``.
        mask: boolean, of x's shape, True where x is observed; everything if not given.
        batch_size: data at a time.

    Raises:
        TypeError: if the pair does not classify, x is of another kind, or y is not a tensor of
            integers.
        ValueError: if y has another shape, no label, or a value that is not a class of the pair.
    """
    probabilities, labels = _classified("accuracy", pair, x, y, mask, batch_size)
    return Estimate.of(probabilities.argmax(-1) == labels)


@dataclass(frozen=True, repr=False)
class Reliability(Result):
    """Confidence and accuracy per bin of confidence: the numbers of a reliability diagram.

    Args:
        error: the expected calibration error, from 0 to 1.
        edges: of the bins of confidence, shape ``(bins + 1,)``, from 0 to 1.
        count: data in each bin, shape ``(bins,)``.
        confidence: mean confidence in each bin, shape ``(bins,)``; NaN if it is empty.
        accuracy: fraction of correct predictions in each bin, shape ``(bins,)``; NaN if it is
            empty.
        overall_accuracy: over all data.
        overall_confidence: mean over all data.
    """

    error: float
    edges: Float[Tensor, " edges"]
    count: Int[Tensor, " bins"]
    confidence: Float[Tensor, " bins"]
    accuracy: Float[Tensor, " bins"]
    overall_accuracy: Estimate
    overall_confidence: float

    @property
    def accuracy_standard_error(self) -> Float[Tensor, " bins"]:
        """√(a (1 - a) / n) of each bin's accuracy a over its n data; NaN if it is empty."""
        return (self.accuracy * (1 - self.accuracy) / self.count).sqrt()

    def __str__(self) -> str:
        return f"expected calibration error {100 * self.error:.1f} %"

    def _rows(self) -> dict[str, object]:
        right = self.overall_accuracy
        filled = int((self.count > 0).sum())
        return {
            "expected calibration error": f"{100 * self.error:.1f} %",
            "accuracy": f"{100 * right.mean:.1f} ± {100 * right.standard_error:.1f} %",
            "mean confidence": f"{100 * self.overall_confidence:.1f} %",
            "data": f"{right.count} in {filled} of {len(self.count)} bins",
        }


def reliability(
    pair: SemiSupervisedVAE | StackedVAE,
    x: Data,
    y: Array | None = None,
    *,
    mask: Array | None = None,
    bins: int = 15,
    batch_size: int = 1000,
) -> Reliability:
    """Return :func:`expected_calibration_error` of q(y | x), for a reliability diagram.

    Args:
        pair, x, y, mask, batch_size: as in :func:`accuracy`, as are the errors.
        bins: of confidence.
    """
    bins = positive_int("reliability", "bins", bins)
    probabilities, labels = _classified("reliability", pair, x, y, mask, batch_size)
    return expected_calibration_error(probabilities, labels, bins)


def expected_calibration_error(
    probabilities: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], bins: int = 15
) -> Reliability:
    r"""Compare how confident a classifier is with how often it is correct.

    ECE = Σ_m (n_m / N) \|accuracy_m - confidence_m\|, where bin m holds the data whose greatest
    probability, the confidence, lies in ((m-1)/M, m/M]. Few data in many bins make it too large,
    even for a calibrated classifier.

    Source: Guo et al. 2017 (arXiv 1706.04599), equations 2 and 3; Naeini et al. 2015.

    Args:
        probabilities: q(y | x), shape ``(N, classes)``, rows that sum to 1, such as
            ``pair.classify(x)``.
        labels: integers, shape ``(N,)``; data whose label is -1 are left out.
        bins: M.

    Raises:
        ValueError: if the rows are not probabilities, or labels and rows differ in number.

    Example:
        >>> sure = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        >>> round(expected_calibration_error(sure, torch.tensor([0, 0])).error, 3)
        0.4
    """
    owner = "expected_calibration_error"
    bins = positive_int(owner, "bins", bins)
    found = describe(probabilities)
    if not isinstance(probabilities, Tensor):
        raise TypeError(f"{owner}: probabilities must be a tensor, got {found}")
    if probabilities.dim() != 2:
        raise ValueError(f"{owner}: probabilities must have shape (N, classes), got {found}")
    known = known_labels(owner, labels, probabilities, below=probabilities.shape[-1])
    p = probabilities.detach().double()
    # Probabilities in float32 sum to 1 up to rounding.
    off = (p.sum(-1) - 1).abs() if p.isfinite().all() and p.min() >= 0 else p.new_ones(1)
    if off.max() > 1e-4:
        raise ValueError(
            f"{owner}: probabilities must be rows of numbers from 0 that sum to 1, got values from "
            f"{p.min()} to {p.max()} in {found}; take the softmax of logits"
        )
    p, labels = p[known.to(p.device)], labels[known].to(p.device)
    confidence, prediction = p.max(-1)
    return binned(confidence, (prediction == labels).double(), bins)


def binned(
    confidence: Float[Tensor, " batch"], correct: Float[Tensor, " batch"], bins: int
) -> Reliability:
    """Compare probabilities of predictions with whether, 0 or 1, each is correct."""
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    # A bin is numbered by its lower edge; rounding may take 1 beyond the last.
    index = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
    count = index.bincount(minlength=bins)
    sums = torch.stack([index.bincount(v, minlength=bins) for v in (confidence, correct)])
    error = (sums[1] - sums[0]).abs().sum().item() / len(correct)
    means = sums / count  # 0 / 0 is NaN if a bin is empty
    overall = Estimate.of(correct), confidence.mean().item()
    return Reliability(error, edges, count, means[0], means[1], *overall)


def accuracy_interval(
    accuracy: int | float | Estimate, n: int, *, level: int | float = 0.95
) -> tuple[float, float]:
    r"""Return Wilson's confidence interval of an accuracy on n data.

    (p + c²/2n ± c √(p (1-p)/n + c²/4n²)) / (1 + c²/n) with c the normal quantile of (1 + level)/2.
    Unlike p ± c standard errors it stays within 0 and 1 and does not vanish at p = 1.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001, section 3.1.1.

    Args:
        accuracy: the fraction of correct predictions p, from 0 to 1.
        n: number of test data.
        level: of confidence.

    Raises:
        ValueError: if the accuracy is not from 0 to 1, or the level not between them.

    Example:
        >>> low, high = accuracy_interval(0.9, 100)
        >>> round(low, 3), round(high, 3)
        (0.826, 0.945)
    """
    owner = "accuracy_interval"
    n = positive_int(owner, "n", n)
    value = accuracy.mean if isinstance(accuracy, Estimate) else accuracy
    p = number(owner, "accuracy", value, least=0, most=1, fix="divide percent by 100")
    level = number(owner, "level", level, above=0, below=1, fix="divide percent by 100")
    c = NormalDist().inv_cdf((1 + level) / 2)
    centre = p + c * c / (2 * n)
    half = c * math.sqrt(p * (1 - p) / n + c * c / (4 * n * n))
    # At p = 0 and p = 1 an end equals p up to rounding.
    low, high = ((centre + side * half) / (1 + c * c / n) for side in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def _classified(
    owner: str, pair: Any, x: Data, y: Array | None, mask: Array | None, batch_size: int
) -> tuple[Float[Tensor, "batch classes"], Integer[Tensor, " batch"]]:
    """Return q(y | x) and the label of all data that have one, on the device of the pair."""
    if not hasattr(pair, "classify"):
        raise TypeError(
            f"{owner}: pair must have classify(x), as SemiSupervisedVAE and StackedVAE do, got "
            f"{type(pair).__name__}"
        )
    batch_size = positive_int(owner, "batch_size", batch_size)
    classes = (pair.second if isinstance(pair, StackedVAE) else pair).num_classes
    y = as_tensor("y", y) if isinstance(y, np.ndarray) else y
    if isinstance(x, Tensor):
        check_labels(owner, y, x, below=classes, lowest=-1)
    inputs = program_inputs(owner, _Classifier(pair), x, () if y is None else (y,), mask)
    found = []
    with evaluating(pair):
        for start in range(0, len(inputs), batch_size):
            part = inputs.rows(slice(start, start + batch_size))
            values, labels = part.args
            check_labels(owner, labels, values, below=classes, lowest=-1)
            if not part.finite:
                raise ValueError(
                    f"{owner}: x has values that are not finite; give mask=, False where missing"
                )
            probabilities = pair.classify(values, **part.kwargs)
            labels = labels.to(probabilities.device)
            found.append((probabilities[labels >= 0], labels[labels >= 0]))
    probabilities, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    if not len(labels):
        raise ValueError(f"{owner}: labels must have a label, got -1 for all {len(inputs)} data")
    return probabilities, labels


class _Classifier(nn.Module):
    """A pair's classifier in the form of a model/guide pair of x and y, x being as it is."""

    def __init__(self, pair: Any) -> None:
        super().__init__()
        self.pair = pair
        found = getattr(pair, "observation", None)
        self.observation = found and Observation(found.event_shape, real, found.likelihood)

    @property
    def model(self) -> nn.Module:
        """Itself, also as the guide."""
        return self

    guide = model

    def forward(self, x: Tensor, y: Tensor, *, mask: Tensor | None = None) -> None:
        """Declare the arguments."""
