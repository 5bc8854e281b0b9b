"""Transforms of batches on the fly, repeatable whatever random numbers they draw."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.errors import describe, reason
from ppl_vae.process_state import exclusively
from ppl_vae.random_state import seeded_for

_SEEDS = 2**62


def augment(
    transform: object, x: Tensor, generator: torch.Generator, *, missing: bool, levels: bool
) -> Tensor:
    """Return a copy of transform(x); see `ppl_vae.data.Dataset.augmented`.

    Args:
        transform: the function.
        x: what it is given.
        generator: gives the seed of the global generators while it runs.
        missing: whether NaN means missing.
        levels: whether the result must be in [0, 1].
    """
    seed = int(torch.randint(_SEEDS, (), generator=generator, device=generator.device))
    shape, dtype, device = x.shape, x.dtype, x.device  # x may be written to
    with exclusively(), seeded_for(device, seed), torch.no_grad():
        y = transform(x)  # type: ignore[operator]
    expected = f"augmented: transform must return a {dtype} tensor of shape {tuple(shape)}"
    if not isinstance(y, Tensor):
        raise TypeError(f"{expected}, got {reason(describe(y))}")
    if y.dtype != dtype or y.device != device:
        raise TypeError(f"{expected} on {device}, got {describe(y)} on {y.device}")
    if y.shape != shape:
        raise ValueError(f"{expected}, that of its argument, got {describe(y)}")
    wrong = y.isinf() if missing else ~y.isfinite()
    if wrong.any():
        raise ValueError(
            f"{expected} of finite values, got {int(wrong.sum())} NaN or infinite ones of "
            f"{y.numel()}"
        )
    seen = y[~y.isnan()] if missing else y
    if levels and len(seen):
        low, high = (v.item() for v in seen.aminmax())
        if low < 0 or high > 1:
            raise ValueError(
                f"{expected} in [0, 1], to be binarised or dequantised, got {low:g} to {high:g}; "
                f"end it with .clamp(0, 1)"
            )
    return y.detach().clone(memory_format=torch.contiguous_format)
