"""Do the probabilities q(y | x) mean what they say?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_vae.errors import describe, positive_int
from ppl_vae.evaluation.checks import known_labels


@dataclass(frozen=True)
class Calibration:
    """Confidence and accuracy, bin by bin: a reliability diagram in numbers.

    Args:
        error: the expected calibration error, from 0 to 1.
        edges: of the bins of confidence, shape ``(bins + 1,)``, from 0 to 1.
        count: data in each bin, shape ``(bins,)``.
        confidence: mean confidence in each bin, shape ``(bins,)``; NaN where it is empty.
        accuracy: share of correct predictions in each bin, shape ``(bins,)``; NaN where it is
            empty.
    """

    error: float
    edges: Float[Tensor, " edges"]
    count: Int[Tensor, " bins"]
    confidence: Float[Tensor, " bins"]
    accuracy: Float[Tensor, " bins"]

    def __str__(self) -> str:
        return f"expected calibration error {100 * self.error:.1f} %"


def expected_calibration_error(
    probabilities: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], bins: int = 15
) -> Calibration:
    r"""Compare how sure a classifier is with how often it is right.

    ECE = Σ_m (n_m / N) \|accuracy_m - confidence_m\|, where bin m holds the data whose greatest
    probability, the confidence, lies in ((m-1)/M, m/M]. Small samples in many bins make it too
    large, even for a classifier that is calibrated.

    Source: Guo et al. 2017 (arXiv 1706.04599), equations 2 and 3; Naeini et al. 2015.

    Args:
        probabilities: q(y | x), shape ``(N, classes)``, rows that sum to 1, such as
            ``pair.classify(x)``.
        labels: integers, shape ``(N,)``; data whose label is -1 are left out.
        bins: M.

    Raises:
        ValueError: if the rows are no probabilities, or labels and rows disagree.

    Example:
        >>> sure = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        >>> round(expected_calibration_error(sure, torch.tensor([0, 0])).error, 3)
        0.4
    """
    owner = "expected_calibration_error"
    bins = positive_int(owner, "bins", bins)
    if not isinstance(probabilities, Tensor):
        raise TypeError(f"{owner}: probabilities must be a tensor, got {describe(probabilities)}")
    if probabilities.dim() != 2:
        raise ValueError(
            f"{owner}: probabilities must have shape (N, classes), got {describe(probabilities)}"
        )
    known = known_labels(owner, labels, probabilities, below=probabilities.shape[-1])
    p = probabilities.detach().double()
    # Probabilities of float32 sum to 1 but for rounding.
    off = (p.sum(-1) - 1).abs() if p.isfinite().all() and p.min() >= 0 else p.new_ones(1)
    if off.max() > 1e-4:
        raise ValueError(
            f"{owner}: probabilities must be rows of numbers from 0 that sum to 1, got values from "
            f"{p.min()} to {p.max()} in {describe(probabilities)}; take the softmax of logits"
        )
    p, labels = p[known.to(p.device)], labels[known].to(p.device)
    confidence, prediction = p.max(-1)
    correct = (prediction == labels).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=p.dtype, device=p.device)
    # The number of the bin is that of the edges below; rounding may bring 1 above the last.
    number = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
    count = number.bincount(minlength=bins)
    sums = torch.stack([number.bincount(v, minlength=bins) for v in (confidence, correct)])
    error = (sums[1] - sums[0]).abs().sum().item() / len(p)
    means = sums / count  # 0 / 0 is NaN, where a bin is empty
    return Calibration(error, edges, count, means[0], means[1])
