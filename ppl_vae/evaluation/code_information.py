"""Mutual information of each dimension of a code with each known factor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution
from tqdm.auto import tqdm

from ppl_vae.data import Factors
from ppl_vae.evaluation.latents import MixtureMarginals, check_finite

DENSITIES = 2**22
"""Densities that are held at once."""
LEAST_BINS = 20


@dataclass(frozen=True)
class CodeInformation:
    """Mutual information of D codes with K factors, in nats, as means over N data.

    Args:
        pointwise: log p(z_j, v_k) / (p(z_j) p(v_k)) of each datum, shape ``(N, D, K)``.
        correction: what is added to its mean, shape ``(D, K)``.
        entropy: H(v_k), shape ``(K,)``.
        shuffled: the mutual information with the factors shuffled among the data, ``(D, K)``.
    """

    pointwise: Tensor
    correction: Tensor
    entropy: Tensor
    shuffled: Tensor

    def of(self, kept: Tensor) -> Tensor:
        """Return I(z_j; v_k) by some of the data, ``(D, K)``; negative estimates are 0."""
        return (self.pointwise[kept].mean(0) + self.correction).clamp(min=0)


def of_posteriors(
    owner: str,
    q: Sequence[Distribution | MixtureMarginals],
    draws: Tensor,
    factors: Factors,
    seed: int,
    bar: tqdm,
) -> CodeInformation:
    """Return the information in z_j ~ q(z_j | x) about each factor, from draws ``(S, N, D)``.

    ``q`` are the marginals of all data, one distribution for each block of them.
    """
    samples, count, dims = draws.shape
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    own = factors.values.to(draws.device)
    groups = [_Groups.of(own, factors.sizes), _Groups.of(own[order], factors.sizes)]
    found = [draws.new_zeros(count, dims, own.shape[1], dtype=torch.float64) for _ in groups]
    step = max(1, DENSITIES // (count * dims))
    for start in range(0, count, step):
        some = slice(start, start + step)
        for z in draws[:, some]:
            log_q = torch.cat([block.log_prob(z.unsqueeze(1)) for block in q], 1)
            largest = log_q.amax(1, keepdim=True)
            check_finite(owner, "log q(z_d | x)", largest)
            density = (log_q - largest).exp().transpose(1, 2)  # (draws, dims, data)
            whole = (density.double().mean(2)).log().unsqueeze(-1)
            for group, total in zip(groups, found, strict=True):
                total[some] += (group.means(density, some) - whole) / samples
            bar.update(len(z))
    pointwise, shuffled = (total.cpu() for total in found)
    nothing = torch.zeros(pointwise.shape[1:], dtype=torch.float64)
    return CodeInformation(pointwise, nothing, _entropies(factors), shuffled.mean(0))


@dataclass(frozen=True)
class _Groups:
    """The data of each value of each factor.

    Args:
        members: 1 where a datum has a value, shape ``(N, values of all factors)``.
        own: the column of each datum's value of each factor, shape ``(N, K)``.
    """

    members: Tensor
    own: Tensor

    @classmethod
    def of(cls, values: Tensor, sizes: Sequence[int]) -> _Groups:
        first = torch.tensor([0, *sizes[:-1]], device=values.device).cumsum(0)
        own = values + first
        members = values.new_zeros(len(values), sum(sizes), dtype=torch.bool)
        return cls(members.scatter_(1, own, True), own)

    def means(self, density: Tensor, some: slice) -> Tensor:
        """Return log q(z_j | v_k) of draws for some data at their own value, up to a constant."""
        sums = density @ self.members.to(density.dtype)  # (draws, dims, values)
        own = self.own[some].unsqueeze(1).expand(-1, density.shape[1], -1)
        number = self.members.sum(0).double()[self.own[some]].unsqueeze(1)
        return (sums.gather(2, own).double() / number).log()


def of_codes(codes: Tensor, factors: Factors, bins: int | None, seed: int) -> CodeInformation:
    """Return the information in deterministic codes, by histograms with equal numbers of data.

    The bias of entropies is corrected to first order (Miller 1955): a histogram of m cells that
    hold data lacks (m - 1) / (2 N) nats.
    """
    bins = max(LEAST_BINS, *factors.sizes) if bins is None else bins
    binned = np.stack([_binned(code, bins) for code in codes.double().cpu().numpy().T], 1)
    values = factors.values.cpu().numpy()
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed)).numpy()
    pointwise, correction = _by_histogram(binned, values)
    shuffled, its_correction = _by_histogram(binned, values[order])
    used = torch.tensor([len(np.unique(value)) for value in values.T])
    entropy = _entropies(factors) + (used - 1) / (2 * len(values))
    return CodeInformation(pointwise, correction, entropy, shuffled.mean(0) + its_correction)


def _binned(code: np.ndarray, bins: int) -> np.ndarray:
    """Return the bin of each value; each value has its own if there are at most ``bins``."""
    different, own = np.unique(code, return_inverse=True)
    if len(different) <= bins:
        return own
    edges = np.unique(np.quantile(code, np.arange(1, bins) / bins))
    return np.unique(np.digitize(code, edges), return_inverse=True)[1]


def _by_histogram(binned: np.ndarray, values: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the pointwise mutual information and the correction of its bias."""
    count = len(values)
    pointwise = np.empty((count, binned.shape[1], values.shape[1]))
    correction = np.empty(pointwise.shape[1:])
    for j, code in enumerate(binned.T):
        for k, value in enumerate(values.T):
            table = np.zeros((code.max() + 1, value.max() + 1))
            np.add.at(table, (code, value), 1)
            of_code, of_value = table.sum(1), table.sum(0)
            ratio = count * table[code, value] / (of_code[code] * of_value[value])
            pointwise[:, j, k] = np.log(ratio)
            cells = [np.count_nonzero(t) for t in (table, of_code, of_value)]
            correction[j, k] = (cells[1] + cells[2] - cells[0] - 1) / (2 * count)
    return torch.from_numpy(pointwise), torch.from_numpy(correction)


def _entropies(factors: Factors) -> Tensor:
    """Return the entropy of each factor over the data, in nats."""
    of_each = []
    for value in factors.values.cpu().T:
        p = value.bincount().double() / len(value)
        of_each.append(-(p * p.log()).nan_to_num().sum())
    return torch.stack(of_each)
