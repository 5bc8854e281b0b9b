"""Bounds as functions of log weights, with the coefficients of their gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppl_vae.estimators.power_means import log_power_mean, log_sums_of_others, normalised_powers


@dataclass(frozen=True)
class Objective:
    r"""A bound on log p(x) from M groups of K particles.

        L = β ELBO + (1 - β) (1/M) Σ_m 1/(1-α) log (1/K) Σ_k w[m,k]^(1-α)

    M = 1, α = β = 0 is the importance-weighted bound; M > 1 is MIWAE, β > 0 CIWAE (Rainforth et al.
    2018, arXiv 1802.04537, equations 10 and 11); α is that of the Rényi bound (Li & Turner 2016,
    arXiv 1602.02311), with α = 1 the ELBO.

    Args:
        groups: M.
        alpha: α, at most 1.
        elbo_weight: β, from 0 to 1.
    """

    groups: int = 1
    alpha: int | float = 0.0
    elbo_weight: int | float = 0.0

    def in_pairs(self) -> Objective:
        """Return the mean of L over two halves of the particles, each of M groups of K."""
        return replace(self, groups=2 * self.groups)

    def averages(self, particles: int) -> bool:
        """Return whether L of so many weights is other than the mean of log w."""
        return self.alpha != 1 and self.elbo_weight != 1 and particles != self.groups

    def bound(self, log_w: Tensor, dim: int) -> Tensor:
        """Return L, with size 1 in the (negative) particle dimension ``dim``."""
        particles = log_w.shape[dim]
        elbo = log_w if particles == 1 else log_w.mean(dim, keepdim=True)
        if not self.averages(particles):
            return elbo
        bound = log_power_mean(self._grouped(log_w, dim), 1 - self.alpha, dim).mean(dim - 1)
        if self.elbo_weight == 0:
            return bound
        return (1 - self.elbo_weight) * bound + self.elbo_weight * elbo

    def doubly_reparameterised(
        self, log_w: Tensor, dim: int, guide_weight: Tensor | float
    ) -> Tensor:
        r"""Return the coefficient of the path derivative of each log w under DReG.

        With ν the normalised w^(1-α) of a group and t the weight of log q in log w (1 without
        ``poutine.scale`` and masks): β/(MK) + (1-β)/M [ν - t (1-α) ν (1-ν)], which is ν² for the
        importance-weighted bound (Tucker et al. 2018, arXiv 1810.04152, equation 8). Derived as
        there, with w^(1-α) for w: reparameterising the direct term -t ν ∂log q once more gives
        -t ∂ν/∂z ∂z/∂φ = -t (1-α) ν (1-ν) times the path derivative.
        """
        return self.coefficients(log_w, dim, (1 - self.alpha) * guide_weight)

    def coefficients(self, log_w: Tensor, dim: int, correction: Tensor | float = 0.0) -> Tensor:
        """Return ∂L/∂log w, of the shape of ``log_w``; they sum to 1, or to 0 if all w are 0.

        With a correction c, the normalised ν is replaced by ν - c ν (1 - ν).
        """
        log_w = log_w.detach()
        particles = log_w.shape[dim]
        if not self.averages(particles):
            return torch.full_like(log_w, 1 / particles)
        nu = normalised_powers(self._grouped(log_w, dim), 1 - self.alpha, dim).flatten(dim - 1, dim)
        # Without the rounding of 1 - ν.
        nu = nu * (1 - correction + correction * nu) / self.groups
        return (1 - self.elbo_weight) * nu + self.elbo_weight / particles

    def gains(self, log_w: Tensor, dim: int, *, geometric: bool) -> Tensor:
        r"""Return L - L_k for each particle k, where L_k is free of it: a baseline; detached.

        L_k is L with w_k replaced by the geometric mean of the others in its group (VIMCO, Mnih &
        Rezende 2016, arXiv 1602.06725, section 2.5), or by their mean in w^(1-α), which makes it
        the bound of the others. In the ELBO both give the mean of all other log w. A particle
        that is alone has L_k = 0.
        """
        log_w = log_w.detach()
        instead = _means_of_others(log_w, dim)
        if not self.averages(log_w.shape[dim]):
            return self._gains(log_w, instead, None, dim)
        grouped, power = self._grouped(log_w, dim), 1 - self.alpha
        if geometric:
            in_group = _means_of_others(grouped, dim)
        else:
            sums = log_sums_of_others(power * grouped, dim)
            in_group = (sums - math.log(grouped.shape[dim] - 1)) / power
        return self._gains(log_w, instead, in_group, dim)

    def gains_of_swaps(self, log_w: Tensor, swapped: Tensor, dim: int) -> Tensor:
        """Return L - L_k for each particle k, where L_k has ``swapped`` for log w_k; detached."""
        log_w, swapped = log_w.detach(), swapped.detach()
        in_group = self._grouped(swapped, dim) if self.averages(log_w.shape[dim]) else None
        return self._gains(log_w, swapped, in_group, dim)

    def _gains(self, log_w: Tensor, instead: Tensor, in_group: Tensor | None, dim: int) -> Tensor:
        """Return the change of L by each log w, of ``instead`` in the ELBO, else ``in_group``.

        0 where L is infinite with or without it.
        """
        gain = _difference(log_w, instead) / log_w.shape[dim]
        if in_group is None:
            return gain
        grouped, power = self._grouped(log_w, dim), 1 - self.alpha
        bound = log_power_mean(grouped, power, dim)
        sums = torch.logaddexp(log_sums_of_others(power * grouped, dim), power * in_group)
        replaced = (sums - math.log(grouped.shape[dim])) / power
        of_group = _difference(bound, replaced).flatten(dim - 1, dim) / self.groups
        return (1 - self.elbo_weight) * of_group + self.elbo_weight * gain

    def _grouped(self, log_w: Tensor, dim: int) -> Tensor:
        """Split particles into M groups in dimension ``dim - 1`` of K in dimension ``dim``."""
        return log_w.unflatten(dim, (self.groups, -1))


def _means_of_others(log_w: Tensor, dim: int) -> Tensor:
    """Return the mean of all log w but each; 0 if there are none."""
    others = log_w.shape[dim] - 1
    if others == 0:
        return torch.zeros_like(log_w)
    zero = log_w == -math.inf
    finite = log_w.masked_fill(zero, 0.0)
    mean = (finite.sum(dim, keepdim=True) - finite) / others
    return mean.masked_fill((zero.sum(dim, keepdim=True) - zero.long()) > 0, -math.inf)


def _difference(one: Tensor, other: Tensor) -> Tensor:
    """Return one - other, 0 where either is -∞."""
    infinite = (one == -math.inf) | (other == -math.inf)
    return (one - other).masked_fill(infinite, 0.0)
