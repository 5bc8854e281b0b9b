"""From a live pair to the full mapping that builds it again, and a check that it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.constructor import arguments
from ppl_vae.equality import differences
from ppl_vae.errors import describe
from ppl_vae.io.config.builder import build
from ppl_vae.io.config.files import dumped
from ppl_vae.io.config.names import activation_name, name_of
from ppl_vae.io.config.references import unlink
from ppl_vae.io.config.resolver import graph
from ppl_vae.io.config.signature import Argument, arguments_of, plain
from ppl_vae.io.errors import ConfigError, brief
from ppl_vae.process_state import restored


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

    Raises ConfigError as :func:`to_config` does.
    """
    if not isinstance(pair, (nn.Module, Mapping)):
        raise TypeError(f"dump: pair must be a pair or a mapping, got {describe(pair)}")
    return dumped(to_config(pair) if isinstance(pair, nn.Module) else pair)


def rebuilt(
    pair: nn.Module, dtype: torch.dtype | None = None
) -> tuple[dict[str, object], nn.Module]:
    """Return a pair's full mapping, and the pair that it builds, with constants in ``dtype``.

    Raises ConfigError if something cannot be written, or the mapping builds another structure.
    """
    mapping = unlink(_Reader().module(pair, "model", "pair"))
    # Packages whose classes are in the pair have been imported already.
    classes = [type(module) for module in pair.modules()]
    classes += [v for m in pair.modules() for v in vars(m).values() if isinstance(v, type)]
    allow = {cls.__module__.partition(".")[0] for cls in classes}
    with building(dtype or torch.get_default_dtype()):
        again = build(graph(mapping, allow=allow, data=None), allow)
    refuse(differences(pair, again))
    return mapping, again


def refuse(differing: Iterator[str]) -> None:
    """Raise ConfigError, which describes the first, if there are differences."""
    first = next(differing, None)
    if first is None:
        return
    more = sum(1 for _ in islice(differing, 99))
    raise ConfigError(
        f"{first}{f', and {more} more' if more else ''}, where 'there' is a pair rebuilt from the "
        f"same constructor arguments, which are all that is saved. Use a part or network of your "
        f"own whose constructor builds what is here, or save weights alone (io.save_weights)"
    )


@contextmanager
def building(dtype: torch.dtype) -> Iterator[None]:
    """Build modules on the CPU in a default dtype, without touching the random state."""
    before = torch.get_default_dtype()
    with restored(), torch.device("cpu"):
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


class _Reader:
    """Reads each module once: a module in two places is one mapping."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, object]] = {}

    def module(self, module: nn.Module, path: str, slot: str) -> dict[str, object]:
        """Return the mapping of a module."""
        if id(module) in self.seen:
            return self.seen[id(module)]
        cls = type(module)
        if cls.__module__.startswith("torch."):
            raise ConfigError(
                f"{path} is a torch.nn.{cls.__name__}, which does not keep its arguments; use a "
                f"network of ppl_vae.nets, or a torch.nn.Module class of your own around it"
            )
        node: dict[str, object] = {"class": name_of(cls, slot, path)}
        self.seen[id(module)] = node
        signature = arguments_of(cls, path)
        try:
            values = arguments(module)
        except (AttributeError, TypeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        for name, value in values.items():
            node[name] = self._value(signature[name], value, f"{path}.{name}")
        return node

    def _value(self, argument: Argument, value: object, path: str) -> object:
        if argument.kind == "activation" and value is not None:
            return activation_name(value, path)
        if isinstance(value, nn.Module) and not isinstance(value, nn.ModuleList):
            return self.module(value, path, argument.name)
        if isinstance(value, (list, tuple, nn.ModuleList)):
            return [self._value(argument, v, f"{path}[{i}]") for i, v in enumerate(value)]
        if isinstance(value, Tensor):
            raise ConfigError(
                f"{path} is {brief(value)}: a configuration holds no tensors; keep it as a buffer"
            )
        if isinstance(value, type):
            raise ConfigError(
                f"{path} is a class without a type hint that makes it an activation; annotate the "
                f"argument as Callable[[], nn.Module]"
            )
        return plain(value, path)
