"""The plane of the map: two dimensions of a latent, or its principal components."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PLANES = ("pca", "kl")
"""How the plane of more than two dimensions is chosen."""


@dataclass(frozen=True, eq=False)
class Plane:
    """An affine plane in the latent space, with orthonormal axes a_1, a_2.

    Args:
        axes: shape ``(2, D)``; the second is 0 if the latent has one dimension.
        centre: shape ``(D,)``, at the origin of the map.
        names: of the axes.
        words: how it was chosen.
    """

    axes: Tensor
    centre: Tensor
    names: tuple[str, str]
    words: str

    @classmethod
    def of(cls, how: str, means: Tensor, kl: Tensor, order: Tensor) -> Plane:
        """Return the plane of N posterior means, shape ``(N, D)``.

        Args:
            how: one of `PLANES`, for D > 2.
            means: E_q(z|x)[z].
            kl: of each dimension in nats, shape ``(D,)``; NaN if unknown.
            order: the dimensions, the most informative first.
        """
        dims = means.shape[1]
        if dims <= 2:
            axes = torch.eye(2, dims).to(means)
            words = "the latent space" if dims == 2 else "the only latent dimension"
            return cls(axes, torch.zeros(dims).to(means), ("z1", "z2" if dims == 2 else ""), words)
        if how == "kl":
            first, second = order[:2].tolist()
            axes = torch.eye(dims).to(means)[[first, second]]
            names = f"z{first + 1}", f"z{second + 1}"
            nats = ", of most activity" if kl.isnan().any() else ", of the largest KL"
            if not kl.isnan().any():
                nats += f" ({kl[first]:.2g} and {kl[second]:.2g} of {kl.sum():.3g} nats)"
            words = f"two of {dims} latent dimensions, {names[0]} and {names[1]}{nats}"
            return cls(axes, torch.zeros(dims).to(means), names, words)
        centre = means.mean(0)
        _, lengths, rows = torch.linalg.svd(means - centre, full_matrices=False)
        axes = torch.zeros(2, dims).to(means)
        axes[: len(rows[:2])] = rows[:2]  # of two data there is one component
        largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
        axes = axes * torch.where(largest < 0, -1.0, 1.0)  # the sign is arbitrary
        share = lengths[:2].square().sum() / lengths.square().sum().clamp(min=1e-30)
        words = (
            f"the two first principal components of the posterior means, with "
            f"{100 * share:.0f} % of their variance in {dims} dimensions"
        )
        return cls(axes, centre, ("first principal component", "second principal component"), words)

    def project(self, z: Tensor) -> Tensor:
        """Return the coordinates on the map of latents ``(..., D)``, shape ``(..., 2)``."""
        return (z - self.centre) @ self.axes.T

    def lift(self, points: Tensor, base: Tensor) -> Tensor:
        """Return the latents at points ``(..., 2)`` that are off the plane what ``base`` is."""
        return base + (points - self.project(base)) @ self.axes
