"""From a configuration to the pair that it describes."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.errors import integer, reason
from ppl_vae.io.config.budget import Budget
from ppl_vae.io.config.names import find, find_activation
from ppl_vae.io.config.resolver import graph
from ppl_vae.io.config.signature import Argument, arguments_of, convert
from ppl_vae.io.errors import ConfigError, brief
from ppl_vae.io.format import BUILD_BYTES
from ppl_vae.models import Pair
from ppl_vae.tensors import as_tensor


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
        data: what the pair is for: a :class:`ppl_vae.data.Dataset`, a tensor or array
            ``(N, *event)``, or anything with an ``event_shape``. It gives ``event_shape`` where
            that is missing (flat, unless a network is convolutional; grey images (H, W) then get
            one channel) and ``num_classes``, and is checked against the likelihood, see
            ``Pair.check``. The pseudo-inputs of a ``VampPrior`` start at data, chosen by torch's
            seed, see ``Pair.initialise_from``.
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
    if isinstance(data, np.ndarray):
        data = as_tensor("from_config: data", data)
    if max_bytes is not None:
        max_bytes = integer("from_config", "max_bytes", max_bytes, 0)
    elif isinstance(config, (str, os.PathLike)):
        max_bytes = BUILD_BYTES
    with nullcontext() if max_bytes is None else Budget(max_bytes):
        pair = build(graph(config, allow=allow, data=data), allow)
    if data is not None:
        assert isinstance(pair, Pair)  # or resolve would have raised
        if isinstance(data, Tensor) or hasattr(data, "in_parts"):
            given: Any = data
            pair.check(given)
            pair.initialise_from(given, seed=int(torch.randint(2**31, ())))
    return pair


def build(full: Mapping[str, object], allow: Collection[str]) -> nn.Module:
    """Build a pair from the graph of its full mapping."""
    return _Builder(allow).module(full, "model", "pair")


class _Builder:
    """Builds each mapping once, wherever it comes first."""

    def __init__(self, allow: Collection[str]) -> None:
        self.allow = allow
        self.built: dict[int, nn.Module | None] = {}

    def module(self, node: object, path: str, slot: str) -> nn.Module:
        """Return the module that a mapping describes."""
        if not isinstance(node, Mapping):
            raise ConfigError(f"{path} must be a mapping with a class, got {brief(node)}")
        if id(node) not in self.built:
            self.built[id(node)] = None
            self.built[id(node)] = self._construct(node, path, slot)
        module = self.built[id(node)]
        if module is None:
            raise ConfigError(f"{path} is a circular reference")
        return module

    def _construct(self, node: Mapping[str, object], path: str, slot: str) -> nn.Module:
        cls = find(node.get("class"), slot, path, self.allow)
        arguments = arguments_of(cls, path)
        given = {k: v for k, v in node.items() if k != "class"}
        values = {k: self._value(arguments[k], v, f"{path}.{k}") for k, v in given.items()}
        try:
            return cls(**values)
        except ConfigError:
            raise
        except (TypeError, ValueError, RuntimeError, MemoryError, OverflowError) as error:
            raise ConfigError(f"{path}: {reason(error, 500)}") from error

    def _value(self, argument: Argument, value: object, path: str) -> object:
        if argument.kind == "activation" and value is not None:
            return find_activation(value, path, self.allow)
        if isinstance(value, list) and argument.kind in ("parts", "unknown"):
            return [self._value(argument, v, f"{path}[{i}]") for i, v in enumerate(value)]
        marked = argument.kind == "unknown" and isinstance(value, Mapping) and "class" in value
        if marked or (argument.kind in ("part", "parts") and value is not None):
            return self.module(value, path, argument.name)
        return value if argument.kind in ("part", "none") else convert(argument, value, path)
