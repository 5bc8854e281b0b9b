"""Autoregressive distributions of codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from ppl_vae.distributions.bernoulli import bernoulli
from ppl_vae.distributions.flow import zuko
from ppl_vae.distributions.one_hot import OneHotCodes, one_hot_rows


def masked_network(latent_dim: int, width: int, hidden: Sequence[int]) -> nn.Module:
    """Build a network of D codes of ``width`` entries whose d-th outputs see the codes before d.

    Source: Germain et al. 2015 (arXiv 1502.03509), section 4; the network is zuko's.
    """
    code = torch.arange(latent_dim).repeat_interleave(width)
    return zuko.nn.MaskedMLP(code.unsqueeze(1) > code, hidden, nn.ELU)


class AutoregressiveCodes(TorchDistribution):
    r"""P(z) = Π_d P(z_d | z_1, ..., z_{d-1}), each a Bernoulli or a categorical distribution.

    A mass is one evaluation of the network, a draw D.

    Args:
        net: ``(..., D * width) -> (..., D * width)``, the logits, with the d-th ``width`` of them
            functions of the codes before d alone; ``width`` is ``categories``, or 1.
        latent_dim: D.
        categories: of one-hot codes, event shape ``(D * categories,)``; None for binary codes,
            event shape ``(D,)``.
        like: a tensor of the dtype and device of draws.

    Raises:
        NotImplementedError: from ``mean`` and ``variance``, which have no closed form.
    """

    arg_constraints: dict = {}  # noqa: RUF012  (as torch declares it)
    has_rsample = False

    def __init__(
        self,
        net: Callable[[Tensor], Tensor],
        latent_dim: int,
        categories: int | None,
        like: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.net, self.latent_dim, self.categories, self.like = net, latent_dim, categories, like
        size = latent_dim * (categories or 1)
        super().__init__(Size(), Size([size]), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Binary vectors, or rows of one-hot codes."""
        if self.categories is None:
            return constraints.independent(constraints.boolean, 1)
        return one_hot_rows(self.categories)

    def expand(
        self, batch_shape: Sequence[int], _instance: AutoregressiveCodes | None = None
    ) -> AutoregressiveCodes:
        """Return the distribution with its batch shape broadcast."""
        new = self._get_checked_instance(AutoregressiveCodes, _instance)
        for name in ("net", "latent_dim", "categories", "like"):
            setattr(new, name, getattr(self, name))
        shape = torch.broadcast_shapes(self.batch_shape, Size(batch_shape))
        super(AutoregressiveCodes, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), in nats, shape ``(sample..., *batch)``."""
        if self._validate_args:
            self._validate_sample(value)
        log_prob = self._given(value).log_prob(value)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw codes, one dimension after the other."""
        width = self.categories or 1
        with torch.no_grad():
            z = self.like.new_zeros(self._extended_shape(Size(sample_shape)))
            for start in range(0, z.shape[-1], width):
                code = slice(start, start + width)
                z[..., code] = self._given(z).sample()[..., code]
            return z

    def _given(self, z: Tensor) -> Distribution:
        """Return the distribution of each code given those before it in z."""
        logits = self.net(z)
        if self.categories is None:
            return bernoulli(logits, checks_values=False).to_event(1)
        logits = logits.unflatten(-1, (self.latent_dim, self.categories))
        return OneHotCodes(logits, validate_args=False)
