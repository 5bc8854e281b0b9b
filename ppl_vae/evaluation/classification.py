"""How well q(y | x) predicts labels."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.errors import positive_int
from ppl_vae.evaluation.checks import check_data, check_labels
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.latents import data_blocks
from ppl_vae.models import SemiSupervisedVAE, StackedVAE
from ppl_vae.modes import evaluating


def accuracy(
    pair: SemiSupervisedVAE | StackedVAE,
    x: Tensor,
    y: Tensor,
    *,
    mask: Tensor | None = None,
    batch_size: int = 1000,
) -> Estimate:
    """Return the fraction of data whose most probable label under q(y | x) is y.

    Args:
        pair: a pair with ``classify``.
        x: the data, shape ``(N, *event)``.
        y: a label for each datum, integers from 0, shape ``(N,)``.
        mask: boolean, of x's shape, True where x is observed; everything if not given.
        batch_size: data at a time.

    Raises:
        TypeError: if the pair does not classify, or y is no tensor of integers.
        ValueError: if y has another shape, or a value that is no class of the pair.
    """
    if not hasattr(pair, "classify"):
        raise TypeError(
            f"accuracy: pair must have classify(x), the probabilities q(y | x), as "
            f"SemiSupervisedVAE and StackedVAE do, got {type(pair).__name__}"
        )
    batch_size = positive_int("accuracy", "batch_size", batch_size)
    check_data("accuracy", x, (), mask)
    classes = (pair.second if isinstance(pair, StackedVAE) else pair).num_classes
    check_labels("accuracy", y, x, below=classes)
    unknown = ~x.isfinite()
    if mask is not None and mask.shape == x.shape:
        unknown &= mask.to(x.device)
    if unknown.any():
        raise ValueError(
            f"accuracy: x has {int(unknown.sum())} values that are not finite; give mask= with "
            f"False where x is missing"
        )
    with evaluating(pair):
        blocks = data_blocks("accuracy", x, (), mask, batch_size)
        likeliest = torch.cat([pair.classify(*a, **named).argmax(-1) for a, named in blocks])
    return Estimate.of((likeliest == y.to(likeliest.device)).float())
