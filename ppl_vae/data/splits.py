"""Seeded, stratified choices of items that depend on the seed, the labels and N alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.random_state import numpy_generator


def per_class_indices(labels: Tensor, per_class: int, seed: int, name: str, fewer: bool) -> Tensor:
    """Return indices of ``per_class`` random items of every class that occurs.

    Unlabelled items, -1, are never chosen. With ``fewer`` a class may have fewer items.
    """
    labels = labels.cpu()
    order = _permutation(len(labels), seed)
    classes = labels[labels >= 0].unique()
    chosen = {int(c): order[labels[order] == c][:per_class] for c in classes}
    for label, found in chosen.items():
        if len(found) < per_class and not fewer:
            raise ValueError(
                f"labelled_subset: per_class must be at most {len(found)}, the number of items "
                f"of class {label} in {name!r}, got {per_class}"
            )
    return torch.cat(list(chosen.values()))


def held_out(total: int, fraction: int | float, labels: Tensor | None, seed: int) -> Tensor | None:
    """Return a mask of the held-out items of ``total``; None if a side would be empty."""
    count = round(fraction * total) if 0 < fraction < 1 else 0
    if not 0 < count < total:
        return None
    order = _permutation(total, seed)
    if labels is not None:
        order = order[labels.cpu()[order].argsort(stable=True)]
    # Evenly spaced in label order: every class in proportion, to within one item.
    spaced = (2 * torch.arange(count) + 1) * total // (2 * count)
    held = torch.zeros(total, dtype=torch.bool)
    held[order[spaced]] = True
    return held


def _permutation(count: int, seed: int) -> Tensor:
    # NumPy has frozen this stream (NEP 19), so splits survive upgrades; torch's may change.
    return torch.from_numpy(numpy_generator(seed).permutation(count)).long()
