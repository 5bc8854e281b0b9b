r"""Mixtures of discretised logistics over grey levels, for single elements and for RGB pixels.

A logistic variable y with location μ and scale s, P(y ≤ t) = sigmoid((t - μ) / s), is rounded to
the nearest of L equidistant levels in [-1, 1], of which the lowest and the highest take the tails;
x = (y + 1) / 2 is the grey value in [0, 1]. The masses sum to one exactly.

Source: Salimans et al. 2017 (arXiv 1701.05517), equations 1 to 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, constraints
from torch.nn import functional as F

from ppl_vae.distributions.grey import GreyGrid, GreyGridDistribution


class DiscretisedLogisticMixture(GreyGridDistribution):
    r"""P(x) = Σ_m softmax(logits)_m [sigmoid((y + h - μ_m) / s_m) - sigmoid((y - h - μ_m) / s_m)].

    Here y = 2x - 1 is the grey value on [-1, 1] and h = 1 / (levels - 1) half a level; the lowest
    and highest levels take the tails.

    Args:
        logits: of the weights, shape ``(..., components)``; the batch shape is ``(...)``.
        loc: μ on [-1, 1], of the same shape.
        scale: s, positive, of the same shape.
        levels: number of grey levels, 2 or more.
        validate_args: check parameters and values; None is torch's global setting.
    """

    arg_constraints = {  # noqa: RUF012  (as torch writes it)
        "logits": constraints.real_vector,
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        levels: int = 256,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        self.levels = levels
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), in nats."""
        level = self._level(value).unsqueeze(-1)
        log_mass = _log_mass(level, self.loc, self.scale, self.levels)
        return torch.logsumexp(self.logits.log_softmax(-1) + log_mass, -1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw grid values: a component, then its logistic, rounded."""
        with torch.no_grad():
            chosen = Categorical(logits=self.logits).sample(sample_shape).unsqueeze(-1)
            loc, scale = _choose(self.loc, chosen), _choose(self.scale, chosen)
            return _draw(loc, scale, self.levels).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        """E[x], exact: a sum over the levels, one at a time in memory."""
        return (self.logits.softmax(-1) * _mean(self.loc, self.scale, self.levels)).sum(-1)

    @property
    def variance(self) -> Tensor:
        """Var[x], exact, like the mean."""
        last, weights = self.levels - 1, self.logits.softmax(-1)
        # About the level c that is nearest to the mean, E[(k - c)²] = Σ_{k>c} (2(k - c) - 1) P(≥ k)
        # + Σ_{k≤c} (2(c - k) + 1) P(< k), and E[k - c] likewise: sums that do not cancel.
        center = (self.mean.unsqueeze(-1) * last).round()
        first, second = torch.zeros_like(self.loc), torch.zeros_like(self.loc)
        for k in range(1, self.levels):
            at_least = _at_least(k, self.loc, self.scale, self.levels)
            above = torch.where(k > center, at_least, 0.0)
            below = torch.where(k > center, 0.0, _below(k, self.loc, self.scale, self.levels))
            first = first + above - below
            second = second + (2 * (k - center) - 1) * (above - below)
        deviation = (weights * first).sum(-1)
        return ((weights * second).sum(-1) - deviation.square()) / last**2


class DiscretisedLogisticMixtureRGB(GreyGridDistribution):
    r"""A mixture shared by the channels of each pixel, autoregressive over the channels.

    P(r, g, b) = Σ_m softmax(logits)_m P(r; μ_r, s_r) P(g; μ_g + α r', s_g)
    P(b; μ_b + β r' + γ g', s_b), each factor a discretised logistic, all parameters those of
    component m at the pixel, and r' = 2r - 1, g' = 2g - 1 the grey values on [-1, 1]. Pixels are
    independent.

    Args:
        logits: of the weights, shape ``(..., H, W, components)``; the batch shape is ``(...)``.
        loc: μ_r, μ_g, μ_b, shape ``(..., 3, H, W, components)``.
        scale: s_r, s_g, s_b, positive, of the shape of loc.
        coefficients: α, β, γ, of the shape of loc.
        levels: number of grey levels, 2 or more.
        validate_args: check parameters and values; None is torch's global setting.

    Values are images of shape ``(..., 3, H, W)``. ``mean`` is exact for red. For green and blue it
    regresses on the component's mean red and green instead of their values, which is exact inside
    [0, 1] and approximate where values are clipped at 0 and 1: the exact mean of blue is a sum over
    levels² terms per component. There is no ``variance``.
    """

    arg_constraints = {  # noqa: RUF012  (as torch writes it)
        "logits": constraints.independent(constraints.real, 3),
        "loc": constraints.independent(constraints.real, 4),
        "scale": constraints.independent(constraints.positive, 4),
        "coefficients": constraints.independent(constraints.real, 4),
    }

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        coefficients: Tensor,
        levels: int = 256,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc = logits, loc
        self.scale, self.coefficients = scale, coefficients
        self.levels = levels
        super().__init__(loc.shape[:-4], loc.shape[-4:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=3)
    def support(self) -> constraints.Constraint:
        """The grid of grey values in [0, 1], at every channel and pixel."""
        return constraints.independent(GreyGrid(self.levels), 3)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value) summed over pixels, in nats."""
        level = self._level(value).unsqueeze(-1)
        before = (2 * _floating(level, self.loc) / (self.levels - 1) - 1).unbind(-4)
        locs = [self._loc_given(before[:c]) for c in range(3)]
        loc = torch.stack(torch.broadcast_tensors(*locs), -4)
        log_mass = _log_mass(level, loc, self.scale, self.levels).sum(-4)
        return torch.logsumexp(self.logits.log_softmax(-1) + log_mass, -1).sum((-2, -1))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw images: each pixel's component, then red, green and blue."""
        with torch.no_grad():
            chosen = Categorical(logits=self.logits).sample(sample_shape)[..., None, :, :, None]
            loc, scale, coefficients = (
                _choose(t, chosen) for t in (self.loc, self.scale, self.coefficients)
            )
            one = DiscretisedLogisticMixtureRGB(
                torch.zeros_like(loc.select(-4, 0)),
                loc,
                scale,
                coefficients,
                self.levels,
                validate_args=False,
            )
            return one._channels_in_turn(_draw).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        """E[x], approximate for green and blue; see the class."""
        weights = self.logits.softmax(-1).unsqueeze(-4)
        return (weights * self._channels_in_turn(_mean)).sum(-1)

    def _channels_in_turn(self, grey_value: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
        """Return red, green and blue per component, each given those before it."""
        before: list[Tensor] = []
        for c in range(3):
            x = grey_value(self._loc_given(before), self.scale.select(-4, c), self.levels)
            before.append(2 * x - 1)
        return (torch.stack(before, -4) + 1) / 2

    def _loc_given(self, before: Sequence[Tensor]) -> Tensor:
        """Return the location of the next channel given those before it, on [-1, 1]."""
        channel = len(before)
        loc = self.loc.select(-4, channel)
        first = channel * (channel - 1) // 2  # green's coefficient is α; blue's are β and γ
        for i, y in enumerate(before):
            loc = loc + self.coefficients.select(-4, first + i) * y
        return loc


def _log_mass(level: Tensor, loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    """Return log P(level) of discretised logistics; all broadcast.

    Between the ends, for a > b, log[sigmoid(a) - sigmoid(b)] = log sigmoid(a) + log sigmoid(-b) +
    log(1 - e^{b-a}), which neither cancels nor underflows.
    """
    half = 1 / (levels - 1)
    deviation = 2 * half * _floating(level, loc) - 1 - loc
    lowest, highest = level == 0, level == levels - 1
    at_most = torch.where(highest, 0.0, F.logsigmoid((deviation + half) / scale))
    at_least = torch.where(lowest, 0.0, F.logsigmoid((half - deviation) / scale))
    both = torch.log(-torch.expm1(-2 * half / scale))
    return at_most + at_least + torch.where(lowest | highest, 0.0, both)


def _floating(level: Tensor, loc: Tensor) -> Tensor:
    """Return levels in the dtype of the locations, but at least float32.

    In bfloat16 neighbouring levels of 256 coincide.
    """
    return level.to(torch.promote_types(loc.dtype, torch.float32))


def _at_least(level: int, loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    """Return P(x ≥ level) for a level above the lowest."""
    edge = (2 * level - 1) / (levels - 1) - 1
    return torch.sigmoid((loc - edge) / scale)


def _below(level: int, loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    """Return P(x < level), with its own digits."""
    edge = (2 * level - 1) / (levels - 1) - 1
    return torch.sigmoid((edge - loc) / scale)


def _mean(loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    """Return E[x] of discretised logistics: Σ_k P(x ≥ x_k) / (levels - 1)."""
    total = torch.zeros_like(loc)
    for k in range(1, levels):
        total = total + _at_least(k, loc, scale, levels)
    return total / (levels - 1)


def _draw(loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    """Return grey values of logistic draws, rounded to the levels."""
    u = torch.rand_like(loc)
    y = loc + scale * (u.log() - (-u).log1p())
    return ((y + 1) / 2 * (levels - 1)).round().clamp(0, levels - 1) / (levels - 1)


def _choose(parameter: Tensor, component: Tensor) -> Tensor:
    """Return the parameter of the chosen component, both broadcast, last dimension 1."""
    shape = torch.broadcast_shapes(parameter.shape[:-1], component.shape[:-1])
    values = parameter.expand(*shape, parameter.shape[-1])
    return values.gather(-1, component.expand(*shape, 1))
