"""Do the parts of a pair fit together? Asked once, at construction, by running them on zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import NotFinitePartError, takes_context
from ppl_vae.errors import describe
from ppl_vae.models.observation import Observation
from ppl_vae.module_modes import evaluating
from ppl_vae.random_state import restored


def agree(
    owner: str, prior: nn.Module, posterior: nn.Module, likelihood: nn.Module, *sizes: int
) -> Observation:
    """Return what may be observed, or raise an error that names the parts that disagree.

    Args:
        owner: the pair's class, for messages.
        prior: p(z), or p(z | ...) if its ``forward`` takes context.
        posterior: q(z | x, ...).
        likelihood: p(x | z, ...).
        sizes: widths of further contexts, such as a one-hot label's.
    """
    check_parts(owner, {"prior": prior, "posterior": posterior, "likelihood": likelihood})
    p_z = probed(owner, "prior", prior, *(sizes if takes_context(prior) else ()))
    p_x = probed(owner, "likelihood", likelihood, p_z.event_shape, *sizes)
    q_z = probed(owner, "posterior", posterior, p_x.event_shape, *sizes)
    same_latents(owner, "prior", prior, p_z, "posterior", posterior, q_z)
    return observation_of(owner, likelihood, p_x)


def check_parts(owner: str, parts: Mapping[str, object]) -> None:
    """Raise TypeError unless all parts, by name, are modules."""
    for name, part in parts.items():
        if not isinstance(part, nn.Module):
            raise TypeError(
                f"{owner}: {name} must be a module that returns a distribution, got "
                f"{describe(part)}"
            )


def observation_of(owner: str, likelihood: nn.Module, p_x: Distribution) -> Observation:
    """Return what may be observed under p(x | z)."""
    if p_x.support is None:
        raise ValueError(f"{owner}: likelihood {type(likelihood).__name__} declares no support")
    return Observation(p_x.event_shape, p_x.support, type(likelihood).__name__)


def same_latents(
    owner: str,
    name: str,
    part: nn.Module,
    p: Distribution,
    other_name: str,
    other_part: nn.Module,
    q: Distribution,
) -> None:
    """Raise an error if two parts are not distributions of the same latent."""
    if p.event_shape != q.event_shape:
        raise ValueError(
            f"{owner}: {name} and {other_name} must have the same latent dimensions, but {name} "
            f"{type(part).__name__} has event shape {tuple(p.event_shape)} and {other_name} "
            f"{type(other_part).__name__} has event shape {tuple(q.event_shape)}; change "
            f"latent_dim or the network's width"
        )


LEADING = ((1,), (2, 3))
"""The leading dimensions that a part is asked to keep: a datum's, then particles as well."""


def probed(owner: str, name: str, part: nn.Module, *events: int | Size) -> Distribution:
    """Run a part on zeros and return its distribution for one datum.

    Args:
        owner: the pair's class, for messages.
        name: the part's name, for messages.
        part: the conditional distribution.
        events: per context its event shape, or its width.

    Raises:
        TypeError: if it is no module that returns a distribution.
        ValueError: if it cannot take such contexts, or does not keep their leading dimensions.
    """
    shapes = [(e,) if isinstance(e, int) else tuple(e) for e in events]
    results = []
    with probing(part):
        for leading in LEADING if events else LEADING[:1]:
            context = [zeros_for(part, *leading, *shape) for shape in shapes]
            p = distribution(owner, name, part, *context)
            if events and p.batch_shape != leading:
                inputs = ", ".join(str(tuple(c.shape)) for c in context)
                raise ValueError(
                    f"{owner}: {name} {type(part).__name__} must keep the leading dimensions of "
                    f"its context: for context of shape {inputs} it must have batch shape "
                    f"{leading}, got batch shape {tuple(p.batch_shape)} and event shape "
                    f"{tuple(p.event_shape)}. {_advice(leading, p)}"
                )
            results.append(p)
    return results[0]


def _advice(leading: tuple[int, ...], p: Distribution) -> str:
    if (*p.batch_shape, *p.event_shape)[: len(leading)] == leading:
        return "Give event_dim=1 for flat data and event_dim=3 for images"
    return (
        "A network sees (..., features) with particles and enumerated values on the left: write "
        "x.flatten(-3) or x.reshape(*x.shape[:-3], -1), not x.view(len(x), -1), or wrap the "
        "network as nets.KeepLeading(net, event_dim)"
    )


def distribution(owner: str, name: str, part: nn.Module, *context: Tensor) -> Distribution:
    """Return ``part(*context)`` if it is a distribution; raise an error that names it if not."""
    check_parts(owner, {name: part})
    try:
        result = part(*context)
    except TypeError as error:
        raise TypeError(
            f"{owner}: {name} is called with {len(context)} context tensors, which "
            f"{type(part).__name__} does not take: {error}"
        ) from error
    except NotFinitePartError:
        raise
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
    modules = [part for part in parts if isinstance(part, nn.Module)]
    with evaluating(*modules), torch.no_grad(), restored():
        yield


def zeros_for(module: nn.Module, *shape: int) -> Tensor:
    """Return zeros with the floating dtype and the device of the module's tensors."""
    if isinstance(module, nn.Module):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                return tensor.new_zeros(shape)
    return torch.zeros(shape)
