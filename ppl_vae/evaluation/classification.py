"""How well q(y | x) predicts labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions.constraints import real

from ppl_vae.errors import positive_int
from ppl_vae.evaluation.arguments import Array, Data, arguments
from ppl_vae.evaluation.checks import check_labels
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.models import SemiSupervisedVAE, StackedVAE
from ppl_vae.models.observation import Observation
from ppl_vae.module_modes import evaluating


def accuracy(
    pair: SemiSupervisedVAE | StackedVAE,
    x: Data,
    y: Array | None = None,
    *,
    mask: Array | None = None,
    batch_size: int = 1000,
) -> Estimate:
    """Return the fraction of data whose most probable label under q(y | x) is y.

    Grey values are classified as they are, those of a data set too.

    Args:
        pair: a pair with ``classify``.
        x: the data: a `ppl_vae.data.Dataset` with labels; batches of x and y; or a tensor or
            array, shape ``(N, *event)``.
        y: a label for each datum, integers from 0, shape ``(N,)``, where x does not bring them.
            Data whose label is -1 are left out, and are not in ``count``.
        mask: boolean, of x's shape, True where x is observed; everything if not given.
        batch_size: data at a time.

    Raises:
        TypeError: if the pair does not classify, x is no such data, or y no tensor of integers.
        ValueError: if y has another shape, no label, or a value that is no class of the pair.
    """
    if not hasattr(pair, "classify"):
        raise TypeError(
            f"accuracy: pair must have classify(x), the probabilities q(y | x), as "
            f"SemiSupervisedVAE and StackedVAE do, got {type(pair).__name__}"
        )
    batch_size = positive_int("accuracy", "batch_size", batch_size)
    classes = (pair.second if isinstance(pair, StackedVAE) else pair).num_classes
    if isinstance(x, Tensor):
        check_labels("accuracy", y, x, below=classes, lowest=-1)
    given = arguments("accuracy", _Labelled(pair), x, () if y is None else (y,), mask)
    right = []
    with evaluating(pair):
        for start in range(0, len(given), batch_size):
            some = given.rows(slice(start, start + batch_size))
            values, labels = some.args
            check_labels("accuracy", labels, values, below=classes, lowest=-1)
            if not some.finite:
                raise ValueError(
                    "accuracy: x has values that are not finite; give mask= with False where x is "
                    "missing"
                )
            likeliest = pair.classify(values, **some.kwargs).argmax(-1)
            right.append((likeliest == labels.to(likeliest.device))[labels >= 0])
    found = torch.cat(right).float()
    if not len(found):
        raise ValueError(f"accuracy: labels must have a label, got -1 for all {len(given)} data")
    return Estimate.of(found)


class _Labelled(nn.Module):
    """What classifies x, as programs of x and y are given them, x being as it is."""

    def __init__(self, pair: Any) -> None:
        super().__init__()
        self.pair = pair
        found = getattr(pair, "observation", None)
        self.observation = found and Observation(found.event_shape, real, found.likelihood)

    @property
    def model(self) -> nn.Module:
        """Itself, and so is the guide."""
        return self

    guide = model

    def forward(self, x: Tensor, y: Tensor, *, mask: Tensor | None = None) -> None:
        """Take what there is of the data."""
