"""How a grey value p in [0, 1] becomes a pixel that is 0 or 1."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.errors import describe

BINARISE = ("dynamic", "static", "threshold", "none")


def check_mode(mode: str, low: float, high: float, name: str) -> None:
    """Raise ValueError unless values of ``name``, from ``low`` to ``high``, can be drawn so."""
    if mode not in BINARISE:
        raise ValueError(f"binarise must be one of {', '.join(BINARISE)}, got {describe(mode)}")
    if mode != "none" and not (low >= 0 and high <= 1):  # nor NaN
        raise ValueError(
            f"binarise={mode!r} needs pixels in [0, 1], got values / scale from {low:g} to "
            f"{high:g} in {name!r}; give the scale that means 1.0, or binarise='none' and "
            f"a likelihood for real values"
        )


def drawn(p: Tensor, mode: str, generator: torch.Generator | None) -> Tensor:
    """Return a Bernoulli(p) draw, or p > 0.5, as float32."""
    if mode == "dynamic":
        # On a CPU a third of the time of torch.bernoulli; 0 and 1 stay what they are.
        u = torch.rand(p.shape, generator=generator, device=p.device, dtype=torch.float32)
        return u.lt_(p)
    return (p > 0.5).to(torch.float32)
