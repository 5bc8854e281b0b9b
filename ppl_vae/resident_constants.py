"""Constants of torch's vectorised functions, mapped into memory.

With AVX-512, log1p and expm1 of float32 end with masked loads of constants, for special arguments
such as -0.0. As long as the page of torch's library that holds one is not mapped, each such load
takes an assist of the processor, even though its mask is empty: log1p takes 8.4 ns per element on
one core of an AMD EPYC, and 0.8 once a first special argument has mapped the page. The same holds
for what is computed with them: softplus, log-sigmoid, ELU, the density of a Bernoulli
(``benchmarks/elementwise.py``). A process that never meets a special argument stays slow.
"""

from __future__ import annotations

import math

import torch

_SPECIAL = (-0.0, -1.0, math.inf, -math.inf, math.nan)


@torch.no_grad()
def map_constants() -> None:
    """Map the pages; called when packages that compute densities are imported."""
    arguments = torch.tensor(_SPECIAL, dtype=torch.float32, device="cpu")
    for function in (torch.log1p, torch.expm1):
        function(arguments)
