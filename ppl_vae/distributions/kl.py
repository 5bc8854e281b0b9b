r"""Closed forms of KL(q ‖ p) that torch and Pyro lack, registered with ``register_kl``.

KL(N(μ, S) ‖ N(m, P)) = ½ [ tr(P⁻¹S) + (m-μ)ᵀP⁻¹(m-μ) - D + log |P| / |S| ]; here P is diagonal
and S is not, so that no matrix is inverted. Near S = P the trace, D and the determinants cancel, so
they are combined: with σ of the diagonal part of q and δ = σ / p - 1, each dimension contributes
δ² + 2 [δ - log(1 + δ)] ≥ 0.

That of Bernoullis is torch's, whose own raises an IndexError where q has more batch dimensions than
p: it assigns to entries by a mask of p's shape. Where only rounding makes a probability 0, it is
finite, as torch's is not.

Of one-hot codes KL(q ‖ p) = Σ_d Σ_c q_dc (log q_dc - log p_dc).
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    register_kl,
)
from torch.nn.functional import softplus

from ppl_vae.distributions.one_hot import OneHotCodes
from ppl_vae.distributions.saddle_point import minus_log1p


@register_kl(MultivariateNormal, Independent)
def _full_rank_from_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:
    scale = q.scale_tril.diagonal(dim1=-2, dim2=-1)
    return _from_diagonal(q.loc, scale, q.scale_tril.tril(-1).square().sum(-1), p)


@register_kl(LowRankMultivariateNormal, Independent)
def _low_rank_from_diagonal(q: LowRankMultivariateNormal, p: Independent) -> Tensor:
    # |D + WWᵀ| = |D| |I + WᵀD⁻¹W|; torch has the Cholesky factor of the latter.
    half_log_det = q._capacitance_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    scale, variance = q._unbroadcasted_cov_diag.sqrt(), q._unbroadcasted_cov_factor.square().sum(-1)
    return _from_diagonal(q.loc, scale, variance, p) - half_log_det


@register_kl(dist.Bernoulli, dist.Bernoulli)
def _bernoulli(q: dist.Bernoulli, p: dist.Bernoulli) -> Tensor:
    most = torch.finfo(q.logits.dtype).max  # 0 · ∞ is NaN
    of_q, of_p = q.logits.clamp(-most, most), p.logits.clamp(-most, most)
    one = q.probs * (softplus(-of_p) - softplus(-of_q))
    rest = (-of_q).sigmoid().masked_fill(_is_always(q), 0)  # 1 - q.probs, with its digits
    zero = rest * (softplus(of_p) - softplus(of_q))
    never = (p.probs == 0) & ((p.logits == -math.inf) | (p.logits.sigmoid() > 0))
    one = one.masked_fill(never, math.inf).masked_fill(q.probs == 0, 0)
    zero = zero.masked_fill(_is_always(p), math.inf).masked_fill(rest == 0, 0)
    return one + zero


def _is_always(p: dist.Bernoulli) -> Tensor:
    """Return where P(1) is exactly 1.

    Finite logits of probabilities that are exactly 0 or 1 are those of a number between.
    """
    return (p.probs == 1) & ((p.logits == math.inf) | (p.logits.sigmoid() < 1))


@register_kl(OneHotCodes, OneHotCodes)
def _one_hot_codes(q: OneHotCodes, p: OneHotCodes) -> Tensor:
    if q.logits.shape[-2:] != p.logits.shape[-2:]:
        shapes = f"q {tuple(q.logits.shape[-2:])}, p {tuple(p.logits.shape[-2:])}"
        raise ValueError(f"KL of codes of different numbers and categories: {shapes}")
    least = torch.finfo(q.logits.dtype).min  # 0 · ∞ is NaN
    terms = q.probs * (q.logits.clamp(min=least) - p.logits.clamp(min=least))
    terms = terms.masked_fill(p.logits == -math.inf, math.inf)
    return terms.masked_fill(q.logits == -math.inf, 0.0).sum((-2, -1))


def _from_diagonal(loc: Tensor, scale: Tensor, variance: Tensor, p: Independent) -> Tensor:
    """Return the KL without the determinant of what q adds to N(loc, diag scale²): ``variance``."""
    if not isinstance(p.base_dist, Normal) or len(p.event_shape) != 1:
        raise NotImplementedError(f"no closed form of the KL to {p}")
    if p.event_shape != loc.shape[-1:]:
        shapes = f"q {tuple(loc.shape[-1:])}, p {tuple(p.event_shape)}"
        raise ValueError(f"KL of distributions of different event shapes: {shapes}")
    p_loc, p_scale = p.base_dist.loc, p.base_dist.scale
    precision = p_scale.square().reciprocal()
    delta = (scale - p_scale) / p_scale
    scale_terms = delta.square() + 2 * minus_log1p(delta, scale / p_scale)
    terms = scale_terms + precision * (variance + (loc - p_loc).square())
    return 0.5 * terms.sum(-1)
