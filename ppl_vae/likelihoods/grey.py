"""Likelihoods of grey levels, with a mass for each of the values k / (levels - 1) in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.distributions import logistic
from ppl_vae.distributions.grey import GreyCategorical
from ppl_vae.distributions.scale import positive_scale
from ppl_vae.errors import integer, positive_int
from ppl_vae.likelihoods.elementwise import Elementwise, shape_of_outputs, split_outputs


class Categorical(Elementwise):
    """P(x_d = k / (L - 1) | z) = softmax(net(z)_d)_k: any distribution over L grey levels.

    Values are on the grid k / (L - 1), k = 0, ..., L - 1, in [0, 1], not the integers k, so that
    networks see the same numbers under any likelihood.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` with L times the channels, on the
            first event dimension (the last dimension for flat data): the logits of level 0 of all
            elements, then those of level 1, and so on.
        levels: L, 256 for 8-bit grey values.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.

    Example:
        >>> import torch
        >>> from ppl_vae import nets
        >>> p = Categorical(nets.MLP(10, 17 * 64), levels=17)(torch.zeros(5, 10))
        >>> p.log_prob(torch.randint(17, (5, 64)) / 16).shape
        torch.Size([5])
    """

    def __init__(self, net: nn.Module, levels: int = 256, *, event_dim: int = 1) -> None:
        super().__init__(net, event_dim=event_dim)
        self.levels = _checked_levels("Categorical", levels)

    @staticmethod
    def net_shape(event_shape: Sequence[int], *, levels: int = 256) -> tuple[int, ...]:
        """Return the shape of the network's output per datum: a logit per level and element."""
        return shape_of_outputs(event_shape, _checked_levels("Categorical", levels))

    def forward(self, *context: Tensor) -> Distribution:
        """Return P(x | context), batch shape ``(...)``."""
        logits = split_outputs(
            "Categorical",
            self.outputs(*context),
            self.event_dim,
            self.levels,
            f"a logit for each of levels={self.levels}",
        )
        return GreyCategorical(logits).to_event(self.event_dim)


class DiscretisedLogisticMixture(Elementwise):
    r"""A mixture of logistics, rounded to grey levels k / (L - 1) in [0, 1].

    On y = 2x - 1 in [-1, 1], with h = 1 / (L - 1) half a level,

        P(x | z) = Σ_m π_m [ sigmoid((y + h - μ_m) / s_m) - sigmoid((y - h - μ_m) / s_m) ],

    where the lowest and highest levels take the tails. Unlike `Categorical` it knows the order of
    the levels, and needs fewer outputs.

    **Flat data, and images without 3 channels**: every element has its own mixture; the network
    returns 3 M numbers for each: the logits of π, then μ, then unconstrained s, each
    component-major.

    **RGB images** (``event_dim=3``, 3 channels): the channels of a pixel share the component, and
    the location of green is μ_g + α r, that of blue μ_b + β r + γ g, for the red and green values
    of the same pixel on [-1, 1]. The network returns 10 M channels: M logits, then 3 M locations,
    3 M unconstrained scales and 3 M unconstrained coefficients, each component-major (red, green,
    blue, or α, β, γ, of the first component, then those of the second).

    The network's number of channels decides: 10 M, or 3 M for each of 1, 2, 4, 5, ... channels.
    s = softplus(.) + 1e-4, where the paper's code has max(e^., e^-7); α, β, γ = tanh(.), as there.

    Source: Salimans et al. 2017 (arXiv 1701.05517), equations 1 to 3.

    Args:
        net: any module ``(..., latent_dim) -> (..., 3 M D)`` for flat data of D elements,
            ``(..., 3 M C, H, W)`` for images, ``(..., 10 M, H, W)`` for RGB images.
        components: M.
        levels: L, 256 for 8-bit grey values.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.

    ``mean`` is exact, by a sum over the levels, except for green and blue of RGB images; see
    `ppl_vae.distributions.logistic`.

    Example:
        >>> import torch
        >>> from ppl_vae import nets
        >>> net = nets.MLP(10, 3 * 5 * 64)
        >>> p = DiscretisedLogisticMixture(net, components=5, levels=17)(torch.zeros(2, 10))
        >>> p.log_prob(torch.randint(17, (2, 64)) / 16).shape
        torch.Size([2])
    """

    def __init__(
        self, net: nn.Module, components: int = 10, levels: int = 256, *, event_dim: int = 1
    ) -> None:
        super().__init__(net, event_dim=event_dim)
        self.components = positive_int("DiscretisedLogisticMixture", "components", components)
        self.levels = _checked_levels("DiscretisedLogisticMixture", levels)

    @staticmethod
    def net_shape(event_shape: Sequence[int], *, components: int = 10) -> tuple[int, ...]:
        """Return the shape of the network's output per datum; ``(3, H, W)`` is an RGB image."""
        m = positive_int("DiscretisedLogisticMixture", "components", components)
        shape = shape_of_outputs(event_shape, 1)
        if len(shape) == 3 and shape[0] == 3:
            return (10 * m, *shape[1:])
        return shape_of_outputs(shape, 3 * m)

    def forward(self, *context: Tensor) -> Distribution:
        """Return P(x | context), batch shape ``(...)``."""
        outputs = self.outputs(*context)
        if self.event_dim == 3 and outputs.dim() >= 3:
            channels = outputs.shape[-3]
            if channels == 10 * self.components:
                return self._rgb(outputs)
            if channels == 9 * self.components or channels % (3 * self.components):
                raise ValueError(
                    f"DiscretisedLogisticMixture: with components={self.components} net must "
                    f"return {10 * self.components} channels for RGB images, or "
                    f"{3 * self.components} for each channel of others, got {channels}, "
                    f"an output of shape {tuple(outputs.shape)}"
                )
        meaning = f"logits, locations and unconstrained scales of components={self.components}"
        count = 3 * self.components
        parameters = split_outputs(
            "DiscretisedLogisticMixture", outputs, self.event_dim, count, meaning
        )
        logits, loc, unconstrained_scale = parameters.chunk(3, -1)
        p = logistic.DiscretisedLogisticMixture(
            logits, loc, positive_scale(unconstrained_scale), self.levels
        )
        return p.to_event(self.event_dim)

    def _rgb(self, outputs: Tensor) -> Distribution:
        m = self.components
        logits, loc, unconstrained_scale, coefficients = outputs.split((m, 3 * m, 3 * m, 3 * m), -3)
        by_channel = (
            t.unflatten(-3, (m, 3)).movedim(-4, -1)
            for t in (loc, unconstrained_scale, coefficients)
        )
        loc, unconstrained_scale, coefficients = by_channel
        return logistic.DiscretisedLogisticMixtureRGB(
            logits.movedim(-3, -1),
            loc,
            positive_scale(unconstrained_scale),
            coefficients.tanh(),
            self.levels,
        )


def _checked_levels(owner: str, levels: int) -> int:
    return integer(owner, "levels", levels, 2, "8-bit grey values have 256")
