"""The Pareto shape k̂ of importance weights, a diagnostic of their mean."""

from __future__ import annotations

import math
import warnings

import torch
from jaxtyping import Float
from torch import Tensor

UNRELIABLE = 0.7
"""Above this k̂ the mean of the weights converges too slowly (Vehtari et al.)."""

MIN_SAMPLES = 25
"""With fewer samples the tail has fewer than five weights, and k̂ is not estimated."""

NOT_COMPUTED = f"not computed: fewer than {MIN_SAMPLES} samples"
"""Shown instead of k̂ if it is NaN."""

_MIN_EXCEEDANCES = 5
_PRIOR_SAMPLES = 10
_PRIOR_SHAPE = 0.5
_ROUNDING = 1000
_DATA_AT_ONCE = 1000
_TERMS_AT_ONCE = 100_000


def tail_size(num_samples: int) -> int:
    """Return M = ⌈min(S/5, 3√S)⌉, the number of weights in the tail."""
    return min(-(-num_samples // 5), math.ceil(3 * math.sqrt(num_samples)))


def pareto_k(
    largest: Float[Tensor, "kept data"],
    num_samples: int,
    *,
    eps: float = torch.finfo(torch.float64).eps,
) -> Float[Tensor, " data"]:
    r"""Return k̂ of each datum from its largest log weights.

    The excesses of the M largest of S weights over the next one follow a generalised Pareto
    distribution of shape k; the weights have finite moments up to order 1/k. The estimate k of
    :func:`shape` is shrunk towards 1/2 as if by ten further weights: k̂ = (M k + 5) / (M + 10).

    Source: Vehtari et al. 2024, "Pareto smoothed importance sampling" (arXiv 1507.02646), section
    3 and appendix G.

    Args:
        largest: at least the M + 1 largest log weights of each datum, in descending order; M is
            ``tail_size(num_samples)``.
        num_samples: S, the number of all weights.
        eps: machine epsilon of the arithmetic that the log weights come from.

    Returns:
        k̂: NaN with fewer than 25 samples; minus infinity if the M + 1 weights are equal up to
        rounding, as at the exact posterior; infinity if fewer than five of them exceed the last,
        as when nearly all are 0.
    """
    if num_samples < MIN_SAMPLES:
        return largest.new_full(largest.shape[1:], math.nan)
    size = tail_size(num_samples)
    parts = largest[: size + 1].split(_DATA_AT_ONCE, dim=1)
    return torch.cat([_k(part, eps) for part in parts])


def _k(largest: Tensor, eps: float) -> Tensor:
    weights = (largest - largest[0]).exp()
    excesses = weights[:-1] - weights[-1]
    count = (excesses > 0).sum(0)
    k = (count * shape(excesses) + _PRIOR_SAMPLES * _PRIOR_SHAPE) / (count + _PRIOR_SAMPLES)
    k = torch.where(count < _MIN_EXCEEDANCES, math.inf, k)
    # Equal up to rounding, whose tail is meaningless.
    same = largest[0] - largest[-1] <= _ROUNDING * eps * largest[0].abs().clamp(min=1)
    return torch.where(same, -math.inf, k)


def smoothed(
    log_w: Float[Tensor, "samples data"], *, eps: float = torch.finfo(torch.float64).eps
) -> tuple[Float[Tensor, "samples data"], Float[Tensor, " data"]]:
    r"""Return log weights with a smoothed tail, and k̂ of each datum.

    The M largest weights of a datum become quantiles of the generalised Pareto distribution that is
    fitted to them, u + σ ((1 - p_i)^-k̂ - 1) / k̂ with p_i = (i - 1/2) / M for the i-th smallest, but
    at most the largest weight. They stay as they are where k̂ is not finite.

    Source: Vehtari et al. 2024 (arXiv 1507.02646), section 3.

    Args:
        log_w: log weights, in nats.
        eps: machine epsilon of the arithmetic that they come from.
    """
    num_samples, size = len(log_w), tail_size(len(log_w))
    if num_samples < MIN_SAMPLES:
        return log_w, log_w.new_full(log_w.shape[1:], math.nan)
    largest, index = log_w.topk(size + 1, dim=0)
    k = pareto_k(largest, num_samples, eps=eps)
    weights = (largest - largest[0]).exp()
    excesses = weights[:-1] - weights[-1]
    raw, theta = _fitted(excesses)
    count = (excesses > 0).sum(0)
    rank = torch.arange(1, size + 1, device=log_w.device)[:, None]  # from the largest on
    below = torch.log1p(-((count - rank + 0.5) / count))  # log(1 - p)
    quantile = torch.where(k.abs() < eps, -below, torch.expm1(-k * below) / k)
    tail = (weights[-1] - raw / theta * quantile).clamp(max=1).log() + largest[0]
    fits = (excesses > 0) & k.isfinite() & tail.isfinite()
    tail = torch.where(fits, tail, largest[:-1])
    return log_w.scatter(0, index[:-1], tail), k


def shape(excesses: Float[Tensor, "kept data"]) -> Float[Tensor, " data"]:
    r"""Return the shape k of a generalised Pareto distribution fitted to each column.

    The density is (1/σ) (1 + k e/σ)^(-1/k - 1). With θ = -k/σ the likelihood's maximum in k is
    k(θ) = mean log(1 - θ e), and θ̂ is the mean of θ under the profile likelihood
    exp(M [log(-θ/k(θ)) - k(θ) - 1]) on a grid of 30 + √M points.

    Source: Zhang & Stephens 2009, "A new and efficient estimation method for the generalized Pareto
    distribution", Technometrics 51(3), section 4; their k is minus this one.

    Args:
        excesses: in descending order; trailing zeros of a column are ignored.

    Returns:
        k, not finite for a column without two distinct positive entries.
    """
    return _fitted(excesses)[0]


def _fitted(excesses: Tensor) -> tuple[Tensor, Tensor]:
    """Return k and θ = -k/σ of each column; see :func:`shape`."""
    positive = excesses > 0
    count = positive.sum(0)
    points = 30 + count.double().sqrt().floor()  # of the grid, per column
    quartile = excesses.gather(
        # the ⌊M/4 + 1/2⌋-th smallest
        0,
        (count - (count / 4 + 0.5).floor().long()).clamp(0, len(excesses) - 1)[None],
    )
    j = torch.arange(1, int(points.max()) + 1, device=excesses.device)[:, None]
    grid = 1 / excesses[:1] + (1 - (points / (j - 0.5)).sqrt()) / (3 * quartile)

    def k_of(theta: Tensor) -> Tensor:
        logs = torch.where(positive, torch.log1p(-theta * excesses), 0.0)
        return logs.sum(-2) / count

    at_once = max(1, _TERMS_AT_ONCE // excesses.numel())
    k = torch.cat([k_of(theta[:, None]) for theta in grid.split(at_once)])
    profile = count * (torch.log(-grid / k) - k - 1)
    # At θ = 0 the ratio is 0/0; that grid point is left out.
    profile = torch.where((j <= points) & (grid != 0), profile, -math.inf)
    theta = (profile.softmax(0) * grid).sum(0)
    return k_of(theta), theta


def warn_of_tail(
    owner: str, k: Tensor, setting: str, affected: str, advice: str, *, stacklevel: int = 3
) -> None:
    """Warn, by default the caller's caller, of data with k̂ above 0.7, or if there is no k̂."""
    unreliable = int((k > UNRELIABLE).sum())
    if k.isnan().any():
        warnings.warn(
            f"{owner}: Pareto k̂ {NOT_COMPUTED}, got {setting}: nothing says by how much {affected} "
            f"are underestimated; take more",
            stacklevel=stacklevel,
        )
    elif unreliable:
        warnings.warn(
            f"{owner}: Pareto k̂ > {UNRELIABLE} for {unreliable} of {len(k)} data: the draws miss "
            f"part of the posterior, and {affected} are underestimated there; {advice}",
            stacklevel=stacklevel,
        )
