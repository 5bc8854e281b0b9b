"""Do the parts of a pair fit together? Asked once, at construction, by running them on zeros."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.errors import describe
from ppl_vae.models.observation import Observation


def agree(
    owner: str, prior: nn.Module, posterior: nn.Module, likelihood: nn.Module, *sizes: int
) -> Observation:
    """Return what may be observed, or raise an error that names the parts that disagree.

    Args:
        owner: the pair's class, for messages.
        prior: p(z).
        posterior: q(z | x, ...).
        likelihood: p(x | z, ...).
        sizes: widths of further contexts, such as a one-hot label's.
    """
    with probing(prior, posterior, likelihood):
        p_z = distribution(owner, "prior", prior)
        further = [zeros_for(likelihood, 1, size) for size in sizes]
        z = zeros_for(likelihood, 1, *p_z.event_shape)
        p_x = distribution(owner, "likelihood", likelihood, z, *further)
        if p_x.batch_shape != (1,):
            raise ValueError(
                f"{owner}: likelihood {type(likelihood).__name__} must give one distribution per "
                f"datum, batch shape (1,) for z of shape {tuple(z.shape)}, got batch shape "
                f"{tuple(p_x.batch_shape)} and event shape {tuple(p_x.event_shape)}; "
                f"give event_dim=1 for flat data and event_dim=3 for images"
            )
        further = [zeros_for(posterior, 1, size) for size in sizes]
        x = zeros_for(posterior, 1, *p_x.event_shape)
        q_z = distribution(owner, "posterior", posterior, x, *further)
    if q_z.event_shape != p_z.event_shape or q_z.batch_shape != (1,):
        raise ValueError(
            f"{owner}: prior and posterior must have the same latent dimensions, but prior "
            f"{type(prior).__name__} has event shape {tuple(p_z.event_shape)} and posterior "
            f"{type(posterior).__name__} has event shape {tuple(q_z.event_shape)} and batch shape "
            f"{tuple(q_z.batch_shape)} for one datum; change latent_dim or the network's width"
        )
    if p_x.support is None:
        raise ValueError(f"{owner}: likelihood {type(likelihood).__name__} declares no support")
    return Observation(p_x.event_shape, p_x.support, type(likelihood).__name__)


def distribution(owner: str, name: str, part: nn.Module, *context: Tensor) -> Distribution:
    """Return ``part(*context)`` if it is a distribution; raise an error that names it if not."""
    if not isinstance(part, nn.Module):
        raise TypeError(
            f"{owner}: {name} must be a module that returns a distribution, got {describe(part)}"
        )
    try:
        result = part(*context)
    except TypeError as error:
        raise TypeError(
            f"{owner}: {name} is called with {len(context)} context tensors, which "
            f"{type(part).__name__} does not take: {error}"
        ) from error
    except ValueError as error:
        shapes = ", ".join(str(tuple(c.shape)) for c in context)
        raise ValueError(
            f"{owner}: {name} {type(part).__name__} does not fit the other parts, which ask it to "
            f"take context of shape {shapes}: {error}"
        ) from error
    if not isinstance(result, TorchDistributionMixin):
        raise TypeError(
            f"{owner}: {name} must return a pyro.distributions object, but {type(part).__name__} "
            f"returns {describe(result)}; wrap a network, as in posteriors.DiagonalNormal(net) or "
            f"likelihoods.Bernoulli(net)"
        )
    return result


@contextmanager
def probing(*parts: nn.Module) -> Iterator[None]:
    """Leave modes, running statistics and the random state as they were."""
    modes = [
        (m, m.training) for part in parts if isinstance(part, nn.Module) for m in part.modules()
    ]
    try:
        for m, _ in modes:
            m.training = False
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for m, mode in modes:
            m.training = mode


def zeros_for(module: nn.Module, *shape: int) -> Tensor:
    """Return zeros with the floating dtype and the device of the module's tensors."""
    if isinstance(module, nn.Module):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                return tensor.new_zeros(shape)
    return torch.zeros(shape)
