r"""Closed forms of KL(q ‖ p) that torch and Pyro lack, registered with ``register_kl``.

The divergence of two normals is KL(N(μ, S) ‖ N(m, P)) = ½ [ tr(P⁻¹S) + (m-μ)ᵀP⁻¹(m-μ) - D
+ log |P| / |S| ]; here P is diagonal and S is not, so that nothing needs to be inverted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    register_kl,
)


@register_kl(MultivariateNormal, Independent)
def _full_rank_from_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:
    variance = q.scale_tril.square().sum(-1)
    log_det = 2 * q.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return _from_diagonal(q.loc, variance, log_det, p)


@register_kl(LowRankMultivariateNormal, Independent)
def _low_rank_from_diagonal(q: LowRankMultivariateNormal, p: Independent) -> Tensor:
    # |D + WWᵀ| = |D| |I + WᵀD⁻¹W|, and torch keeps the Cholesky factor of the latter.
    capacitance = q._capacitance_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_det = q._unbroadcasted_cov_diag.log().sum(-1) + 2 * capacitance
    return _from_diagonal(q.loc, q.variance, log_det, p)


def _from_diagonal(loc: Tensor, variance: Tensor, log_det: Tensor, p: Independent) -> Tensor:
    """Return KL from the mean, marginal variances and log-determinant of q."""
    if not isinstance(p.base_dist, Normal) or len(p.event_shape) != 1:
        raise NotImplementedError(f"no closed form of the KL to {p}")
    if p.event_shape != loc.shape[-1:]:
        raise ValueError(
            f"KL of distributions of different event shapes: q {tuple(loc.shape[-1:])}, "
            f"p {tuple(p.event_shape)}"
        )
    precision = p.base_dist.scale.square().reciprocal()
    quadratic = (precision * (variance + (loc - p.base_dist.loc).square())).sum(-1)
    log_det_p = 2 * p.base_dist.scale.log().sum(-1)
    return 0.5 * (quadratic - torch.ones_like(loc).sum(-1) + log_det_p - log_det)
