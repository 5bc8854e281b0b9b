"""Pairs as plain configurations: ``from_config`` builds one, ``to_config`` reads it back.

Every part is a mapping with its ``class``, a name in the package where it belongs, and the
arguments of that class. Arguments that follow from the pair's sizes, or have defaults, can be left
out:

    class: VAE
    latent_dim: 10
    event_shape: 784
    prior: {class: GaussianMixture, components: 500}
    likelihood: Bernoulli

A configuration is data: it can name the public classes of the package and torch's activations. Any
other name is refused without importing anything, unless the caller allows its package.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.errors import describe, integer
from ppl_vae.io.config.budget import Budget
from ppl_vae.io.config.builder import build
from ppl_vae.io.config.files import dumped
from ppl_vae.io.config.reader import rebuilt
from ppl_vae.io.config.resolver import resolve
from ppl_vae.io.errors import ConfigError
from ppl_vae.io.format import BUILD_BYTES
from ppl_vae.models import Pair

__all__ = ["ConfigError", "dump", "from_config", "to_config"]


def from_config(
    config: Mapping[Any, Any] | str | os.PathLike[str],
    *,
    allow: Collection[str] = (),
    data: object = None,
    max_bytes: int | None = None,
) -> Any:
    """Build a pair.

    - ``class`` is a public class: of :mod:`ppl_vae.priors` for a prior, and so on; one of another
      package as ``package.Name``; one of your own as ``mypackage.module.Name``, with ``allow``. A
      part without arguments can be written as the name alone, ``prior: StandardNormal``.
    - ``latent_dim``, and ``event_shape`` (784 or [1, 28, 28]), the shape of one datum, are given
      once, at the pair. From them, and from ``num_classes`` or ``context_features`` where the pair
      has them, follow the widths of the networks and every ``latent_dim``, ``event_shape`` and
      ``event_dim``. A ``HierarchicalVAE`` needs all sizes.
    - The default prior is a ``StandardNormal``, the posterior a ``DiagonalNormal``, a network an
      ``MLP``, or for images a ``ConvEncoder`` or ``ConvDecoder``.
    - ``${posterior}`` refers to the module at that path of the pair, the same object; it is the
      default posterior of a ``VampPrior``.

    Args:
        config: a mapping, or the path of a YAML or JSON file with one; or the same under the single
            key ``model``.
        allow: top-level packages of your own that may be imported.
        data: what the pair is for: a :class:`ppl_vae.data.Dataset`, a tensor ``(N, *event)``, or
            anything with an ``event_shape``. It gives ``event_shape`` where that is missing (flat,
            unless a network is convolutional; grey images (H, W) then get one channel) and
            ``num_classes``, and is checked against the likelihood, see ``Pair.check``. The
            pseudo-inputs of a ``VampPrior`` start at data, chosen by torch's seed, see
            ``Pair.initialise_from``.
        max_bytes: limit on the bytes of the tensors that are made, plus 128 KiB for each operation;
            by default 1 GiB for a file and none for a mapping. A file may have 256 KiB and 5,000
            entries; a mapping has no such limits.

    Raises:
        ConfigError: if the configuration is invalid; the message names the path, the value and what
            was expected. Nothing was imported from a package that is not allowed.
        TypeError: if data have no shape, or are incompatible with the likelihood.
        ValueError: if data are incompatible with the likelihood.
        OSError: if the file cannot be opened.

    Example:
        >>> vae = from_config(
        ...     {
        ...         "class": "VAE",
        ...         "latent_dim": 10,
        ...         "event_shape": 784,
        ...         "prior": {"class": "GaussianMixture", "components": 500},
        ...         "likelihood": "Bernoulli",
        ...     }
        ... )
        >>> vae.generate(3).shape
        torch.Size([3, 784])
    """
    if max_bytes is not None:
        max_bytes = integer("from_config", "max_bytes", max_bytes, 0)
    if max_bytes is None and isinstance(config, (str, os.PathLike)):
        max_bytes = BUILD_BYTES
    with nullcontext() if max_bytes is None else Budget(max_bytes):
        pair = build(resolve(config, allow=allow, data=data), allow=allow)
    if data is not None:
        assert isinstance(pair, Pair)  # or resolve would have raised
        if isinstance(data, Tensor) or hasattr(data, "in_parts"):
            given: Any = data
            pair.check(given)
            pair.initialise_from(given, seed=int(torch.randint(2**31, ())))
    return pair


def to_config(pair: nn.Module) -> dict[str, object]:
    """Return the full mapping of a pair: str, int, float, bool, None, lists and dicts only.

    ``from_config`` builds from it a pair of the same classes and arguments, with fresh parameters,
    into which this one's ``state_dict`` can be loaded. One is built here and compared: its modules,
    constants and attributes must be the same. Device, dtype and mode are not included.

    Raises:
        ConfigError: if something cannot be written, such as a lambda, or if the pair is no longer
            what its constructors build, for instance with a layer replaced; the message says where.

    Example:
        >>> from ppl_vae import VAE, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(10),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(784, 20)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(10, 784)),
        ... )
        >>> to_config(vae)["prior"]
        {'class': 'StandardNormal', 'latent_dim': 10}
    """
    if not isinstance(pair, nn.Module):
        raise TypeError(f"to_config: pair must be a module, such as a VAE, got {describe(pair)}")
    return rebuilt(pair)[0]


def dump(pair: nn.Module | Mapping[Any, Any]) -> str:
    """Return a pair, or a mapping, as YAML text, which ``from_config`` can read from a file.

    Raises:
        ConfigError: as :func:`to_config`.
    """
    if not isinstance(pair, (nn.Module, Mapping)):
        raise TypeError(f"dump: pair must be a pair or a mapping, got {describe(pair)}")
    return dumped(to_config(pair) if isinstance(pair, nn.Module) else pair)
