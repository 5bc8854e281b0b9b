"""Normal distributions from the outputs of a network."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent

from ppl_vae.distributions.scale import MIN_SCALE, inverse_softplus, positive_scale


def diagonal_normal(owner: str, outputs: Tensor, min_scale: int | float = MIN_SCALE) -> Independent:
    """Return N(μ, diag σ²) for outputs ``(..., 2 * D)``: μ, then s, σ = softplus(s) + min_scale.

    Args:
        owner: the class that owns the network, for messages.
        outputs: the network's output.
        min_scale: lower bound of σ.

    Raises:
        ValueError: if the number of features is odd.
    """
    if outputs.shape[-1] % 2:
        raise ValueError(
            f"{owner}: net must return location and unconstrained scale, an even number of "
            f"features on the last dimension, got an output of shape {tuple(outputs.shape)}"
        )
    loc, unconstrained_scale = outputs.chunk(2, dim=-1)
    return dist.Normal(loc, positive_scale(unconstrained_scale, min_scale)).to_event(1)


def unconstrained(scale: Tensor) -> Tensor:
    """Return s with softplus(s) + 1e-4 = ``scale``, for scales above 1e-4."""
    return inverse_softplus(scale - MIN_SCALE)


def cholesky_factor(
    unconstrained_diagonal: Tensor, below_diagonal: Tensor, min_scale: int | float = MIN_SCALE
) -> Tensor:
    r"""Return a lower-triangular L with a positive diagonal, shape ``(..., D, D)``.

    L_ii = σ_i = softplus(s_i) + min_scale, and L_ij = σ_i a_ij / √D for j < i: the scale σ times
    correlated noise (I + A / √D) ε. For a of unit size that matrix is well-conditioned for any D
    and σ. With L_ij = a_ij / √D the inverse would grow like a power D of a / σ: at D = 50 and
    σ = 0.1 a float32 density is wrong by thousands of nats.

    Args:
        unconstrained_diagonal: s, shape ``(..., D)``.
        below_diagonal: a, shape ``(..., D (D - 1) / 2)``, row after row: a_21, a_31, a_32, a_41...
        min_scale: lower bound of σ.
    """
    diagonal = positive_scale(unconstrained_diagonal, min_scale)
    d = diagonal.shape[-1]
    row, column = torch.tril_indices(d, d, -1, device=diagonal.device)
    flat = diagonal.new_zeros(*diagonal.shape[:-1], d * d)
    flat = flat.index_copy(-1, row * d + column, below_diagonal / math.sqrt(d))
    identity = torch.eye(d, dtype=diagonal.dtype, device=diagonal.device)
    return diagonal.unsqueeze(-1) * (flat.unflatten(-1, (d, d)) + identity)
