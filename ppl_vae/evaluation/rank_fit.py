"""How far off a distribution is whose draws have given ranks: its shift and its width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.special import log_ndtr, ndtr, ndtri

_EDGE, _CELLS = 8.0, 320
_MOST = torch.tensor([5.0, 3.0], dtype=torch.float64, device="cpu")
"""Limits of |m| and |log s|: ranks that are all extreme have no finite fit."""
_ITERATIONS, _HALVINGS = 50, 20
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class RankFit:
    """The normal that ranks are of, in units of the normal that the draws are of.

    Args:
        shift: m, the mean.
        shift_error: its standard error.
        log_width: log s, s the standard deviation.
        log_width_error: its standard error.
        shift_score: signed root of the likelihood ratio against m = 0, normal if m is 0.
        width_score: against s = 1, likewise.
    """

    shift: float
    shift_error: float
    log_width: float
    log_width_error: float
    shift_score: float
    width_score: float


def fit_ranks(ranks: Int[Tensor, " simulations"], num_draws: int) -> RankFit:
    r"""Fit m and s by maximum likelihood: draws of N(0, 1) and a value w of N(m, s²).

    The rank of w among L draws is Binomial(L, Φ(w)), so that

        p(rank = r) = ∫ Binomial(r; L, Φ(w)) N(w; m, s²) dw,

    summed over cells of w. Uniform ranks have m = 0 and s = 1, whatever L, which is at least 2.

    Args:
        ranks: from 0 to L.
        num_draws: L.

    Example:
        >>> fit = fit_ranks(torch.arange(100), 99)
        >>> abs(fit.shift) < 1e-3, abs(fit.log_width) < 0.02
        (True, True)
    """
    counts = ranks.cpu().bincount(minlength=num_draws + 1).double()
    scores = ndtri((ranks.cpu().double() + 0.5) / (num_draws + 1))
    spread = scores.std(correction=0).clamp(min=0.1).log()
    start = torch.stack([scores.mean(), spread])
    best, errors, top = _maximum(counts, start, (True, True))
    signed = []
    for index in range(2):
        free = (index == 1, index == 0)
        *_, constrained = _maximum(counts, torch.where(torch.tensor(free), start, 0.0), free)
        root = math.sqrt(max(0.0, 2 * (top - constrained)))
        signed.append(math.copysign(root, best[index]))
    (m, log_s), (m_error, log_s_error) = best.tolist(), errors.tolist()
    return RankFit(m, m_error, log_s, log_s_error, *signed)


def _maximum(
    counts: Float[Tensor, " ranks"], start: Float[Tensor, "2"], free: tuple[bool, bool]
) -> tuple[Float[Tensor, "2"], Float[Tensor, "2"], float]:
    """Return the maximum over the free ones of m and log s, standard errors and log-likelihood.

    By Fisher scoring, with steps halved until the likelihood grows.
    """
    at, chosen = start.clamp(-_MOST, _MOST), torch.tensor(free).nonzero().squeeze(1)
    log_likelihood, gradient, information = _likelihood(counts, at)
    for _ in range(_ITERATIONS):
        step = torch.zeros_like(at)
        block = information[chosen][:, chosen] + 1e-9 * torch.eye(len(chosen), dtype=at.dtype)
        step[chosen] = torch.linalg.solve(block, gradient[chosen])
        for halving in range(_HALVINGS):
            new = (at + 0.5**halving * step).clamp(-_MOST, _MOST)
            found = _likelihood(counts, new)
            if found[0] >= log_likelihood:
                break
        else:
            break
        gain = found[0] - log_likelihood
        at, (log_likelihood, gradient, information) = new, found
        if gain < _TOLERANCE:
            break
    errors = torch.full_like(at, math.inf)
    errors[chosen] = (
        torch.linalg.pinv(information[chosen][:, chosen]).diagonal().clamp(min=0).sqrt()
    )
    return at, errors, log_likelihood


def _likelihood(
    counts: Float[Tensor, " ranks"], at: Float[Tensor, "2"]
) -> tuple[float, Float[Tensor, "2"], Float[Tensor, "2 2"]]:
    """Return the log-likelihood at m and log s, its gradient and the expected information."""
    edges, binomial = _binomial(len(counts) - 1)
    m, s = at[0], at[1].exp()
    t = (edges - m) / s
    density = (-0.5 * t.square()).exp() / math.sqrt(2 * math.pi)
    cells = torch.stack([ndtr(t), -density / s, -t * density], -1).diff(dim=0)
    p, *derivatives = (binomial @ cells).unbind(-1)
    p = p.clamp(min=torch.finfo(p.dtype).tiny)
    scores = torch.stack(derivatives) / p
    information = counts.sum() * (scores * p) @ scores.mT
    return float(counts @ p.log()), scores @ counts, information


@lru_cache(maxsize=4)
def _binomial(num_draws: int) -> tuple[Float[Tensor, " edges"], Float[Tensor, "ranks cells"]]:
    """Return the edges of cells of w, and Binomial(r; L, Φ(w)) at their centres."""
    inner = torch.linspace(-_EDGE, _EDGE, _CELLS + 1, dtype=torch.float64, device="cpu")
    far = torch.tensor([1e3], dtype=torch.float64, device="cpu")  # ∞ times 0 would be NaN
    edges = torch.cat([-far, inner, far])
    centres = torch.cat([inner[:1], (inner[1:] + inner[:-1]) / 2, inner[-1:]])
    rank = torch.arange(num_draws + 1, dtype=torch.float64, device="cpu")
    log_factorial = torch.lgamma(rank + 1)
    log_choose = log_factorial[-1] - log_factorial - log_factorial.flip(0)
    others = rank.flip(0)
    log_p = torch.outer(rank, log_ndtr(centres)) + torch.outer(others, log_ndtr(-centres))
    return edges, (log_choose[:, None] + log_p).exp()
