"""Compatibility of the parts of a pair, checked at construction by running them on zeros."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pyro.distributions import Delta
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from ppl_vae.conditional import NotFinitePartError, takes_context
from ppl_vae.errors import describe
from ppl_vae.models.observation import Observation
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import restored


def checked_observation(
    owner: str,
    prior: nn.Module,
    posterior: nn.Module,
    likelihood: nn.Module,
    *sizes: int,
    classifier: nn.Module | None = None,
) -> Observation:
    """Return the pair's observation; raise an error naming parts whose shapes disagree.

    ``sizes`` are the widths of further contexts, such as a one-hot label's; the ``classifier`` sees
    x as the posterior does.
    """
    check_modules(owner, {"prior": prior, "posterior": posterior, "likelihood": likelihood})
    p_z = probe(owner, "prior", prior, *(sizes if takes_context(prior) else ()))
    if not p_z.event_shape:
        raise ValueError(
            f"{owner}: prior must have the latent dimensions as its event shape, got batch shape "
            f"{tuple(p_z.batch_shape)} and event shape (); add .to_event(1)"
        )
    z, x = f"z of prior {type(prior).__name__}", f"x of likelihood {type(likelihood).__name__}"
    p_x = probe(owner, "likelihood", likelihood, p_z.event_shape, *sizes, sources=z)
    q_z = probe(owner, "posterior", posterior, p_x.event_shape, *sizes, sources=x)
    check_same_latents(owner, "prior", p_z, "posterior", q_z)
    return observation_of(
        owner, likelihood, p_x, posterior, *([] if classifier is None else [classifier])
    )


def check_modules(owner: str, parts: Mapping[str, object]) -> None:
    """Raise TypeError unless all parts are modules."""
    for name, part in parts.items():
        if not isinstance(part, nn.Module):
            expected = "a module that returns a distribution"
            got = describe(part)
            if isinstance(part, type) and issubclass(part, nn.Module):
                got = f"the class {part.__name__}; make an object of it, {part.__name__}(...)"
            raise TypeError(f"{owner}: {name} must be {expected}, got {got}")


def check_labels_suffice(owner: str, likelihood: nn.Module) -> None:
    """Raise ValueError if a likelihood would take the last class of a label for a size factor."""
    if getattr(likelihood, "size_factor", None) == "context":
        raise ValueError(
            f"{owner}: likelihood {type(likelihood).__name__} has size_factor='context', but the "
            f"context is a label; use a ConditionalVAE with context_features, or "
            f"size_factor='latent'"
        )


def observation_of(
    owner: str, likelihood: nn.Module, p_x: Distribution, *readers: nn.Module
) -> Observation:
    """Return the observation of x under p(x | z), as the networks of those that see x want it."""
    if p_x.support is None:
        raise ValueError(f"{owner}: likelihood {type(likelihood).__name__} declares no support")
    reads_missing = [
        any(getattr(module, "reads_missing", False) for module in reader.modules())
        for reader in readers
    ]
    return Observation(
        p_x.event_shape,
        p_x.support,
        type(likelihood).__name__,
        guide_reads_missing=bool(reads_missing) and all(reads_missing),
    )


def check_same_latents(
    owner: str, p_name: str, p: Distribution, q_name: str, q: Distribution
) -> None:
    """Raise an error unless two parts are distributions of the same latent.

    A density of one and a mass of the other would give no bound, nor would draws of q at which p
    is 0: those of 64 draws are looked at where p is discrete.
    """
    if p.event_shape != q.event_shape:
        raise ValueError(
            f"{owner}: {p_name} and {q_name} must have the same latent dimensions, got event "
            f"shapes {tuple(p.event_shape)} and {tuple(q.event_shape)}; change latent_dim or the "
            f"network's width"
        )
    kinds = [_kind_of_values(d) for d in (p, q)]
    if None not in kinds and kinds[0] != kinds[1]:
        raise ValueError(
            f"{owner}: {p_name} and {q_name} must both be discrete or both continuous, got "
            f"{p_name} over {kinds[0]} and {q_name} over {kinds[1]} values; replace both"
        )
    if kinds[0] == "continuous" and "codebook" in getattr(q, "training_terms", {}):
        raise ValueError(
            f"{owner}: {q_name} draws vectors of a codebook, to which {p_name} must give masses, "
            f"got a density over {kinds[0]} values; use priors.Codebook of the posterior"
        )
    if kinds[0] != "discrete":
        return
    with torch.no_grad(), restored():
        draws = q.sample(Size([64]))
    if not draws.is_meta and not p.support.check(draws).all():  # type: ignore[union-attr]
        raise ValueError(
            f"{owner}: {q_name} must draw values in the support of {p_name}, {p.support}, but its "
            f"draws are outside; use parts over the same codes"
        )


def _kind_of_values(distribution: Distribution) -> str | None:
    """Return whether values are discrete or continuous; None of a point mass or if unknown."""
    if isinstance(getattr(distribution, "base_dist", distribution), Delta):
        return None
    try:
        support = distribution.support
    except NotImplementedError:
        return None
    if support is None:
        return None
    return "discrete" if support.is_discrete else "continuous"


LEADING = ((1,), (2, 3))
"""The leading dimensions tried: one datum, then particles and data."""


def probe(
    owner: str, name: str, part: nn.Module, *events: int | Size, sources: str = "the other parts"
) -> Distribution:
    """Run a part on zeros, of the event shape or width of each context, and return p for one datum.

    ``sources`` is where their sizes come from, for the message.

    Raises TypeError unless it returns a distribution, and ValueError if it cannot take such
    contexts, or does not preserve their leading dimensions, or is a batch without any.
    """
    shapes = [(e,) if isinstance(e, int) else tuple(e) for e in events]
    results = []
    with evaluating(part), torch.no_grad(), restored():
        for leading in LEADING if events else LEADING[:1]:
            context = [zeros_for(part, *leading, *shape) for shape in shapes]
            p = _distribution(owner, name, part, sources, *context)
            if not events and p.batch_shape and p.event_shape:
                raise ValueError(
                    f"{owner}: {name} {type(part).__name__} must be one distribution, of batch "
                    f"shape (), got batch shape {tuple(p.batch_shape)} and event shape "
                    f"{tuple(p.event_shape)}; .to_event(n) makes dimensions of the batch latent"
                )
            if events and p.batch_shape != leading:
                inputs = ", ".join(str(tuple(c.shape)) for c in context)
                raise ValueError(
                    f"{owner}: {name} {type(part).__name__} must keep the leading dimensions of "
                    f"its context: for context of shape {inputs} expected batch shape {leading}, "
                    f"got batch shape {tuple(p.batch_shape)} and event shape "
                    f"{tuple(p.event_shape)}. {_advice(leading, p)}"
                )
            results.append(p)
    return results[0]


def _advice(leading: tuple[int, ...], p: Distribution) -> str:
    if (*p.batch_shape, *p.event_shape)[: len(leading)] == leading:
        return "Give event_dim=1 for flat data and event_dim=3 for images"
    return (
        "Particles and enumerated values are leading dimensions, (..., features): write "
        "x.flatten(-3) or x.reshape(*x.shape[:-3], -1), not x.view(len(x), -1), or wrap the "
        "network as nets.KeepLeading(net, event_dim)"
    )


def _distribution(
    owner: str, name: str, part: nn.Module, sources: str, *context: Tensor
) -> Distribution:
    """Return ``part(*context)``; raise an error naming the part if it is not a distribution."""
    what = f"{owner}: {name} {type(part).__name__}"
    try:
        result = part(*context)
    except TypeError as error:
        called = f"was called with {len(context)} context tensors"
        raise TypeError(f"{what} {called}: {error}") from error
    except (NotFinitePartError, NotImplementedError, torch.OutOfMemoryError):
        raise
    except (ValueError, RuntimeError) as error:  # torch's matrix products raise the latter
        shapes = ", ".join(str(tuple(c.shape)) for c in context)
        raise ValueError(
            f"{what} is incompatible with {sources}, context of shape {shapes}: {error}"
        ) from error
    if not isinstance(result, TorchDistributionMixin):
        raise TypeError(
            f"{owner}: {name} must return a pyro.distributions object, got {describe(result)}; "
            f"wrap a network, as in posteriors.DiagonalNormal(net) or likelihoods.Bernoulli(net)"
        )
    return result


def zeros_for(module: nn.Module, *shape: int) -> Tensor:
    """Return zeros of the module's floating dtype, on its device."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.new_zeros(shape)
    return torch.zeros(shape)
