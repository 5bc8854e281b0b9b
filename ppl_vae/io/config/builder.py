"""From a full mapping to the pair that it describes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import nn

from ppl_vae.errors import reason
from ppl_vae.io.config.names import find, find_activation
from ppl_vae.io.config.references import is_reference
from ppl_vae.io.config.signature import Argument, arguments_of, convert
from ppl_vae.io.errors import ConfigError, brief


def build(full: Mapping[str, object], *, allow: Collection[str] = ()) -> nn.Module:
    """Build a pair from a full mapping; ``allow`` names packages that may be imported.

    Raises ConfigError if a name or a value is invalid, or a constructor raises; its error is the
    cause.
    """
    return _Builder(full, allow).module(full, "model", "pair")


class _Builder:
    """Builds each mapping once, whether it or a reference to it comes first."""

    def __init__(self, full: Mapping[str, object], allow: Collection[str]) -> None:
        self.full = full
        self.allow = allow
        self.built: dict[int, nn.Module | None] = {}

    def module(self, node: object, path: str, slot: str) -> nn.Module:
        """Return the module that a mapping or a reference describes."""
        if is_reference(node):
            node = self._target(str(node))
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
            items = (self._value(argument, v, f"{path}[{i}]") for i, v in enumerate(value))
            return list(items)
        marked = is_reference(value) or (isinstance(value, Mapping) and "class" in value)
        if argument.kind in ("part", "parts") and value is not None:
            return self.module(value, path, argument.name)
        if argument.kind == "unknown" and marked:
            return self.module(value, path, argument.name)
        return value if argument.kind in ("part", "none") else convert(argument, value, path)

    def _target(self, reference: str) -> object:
        found: object = self.full
        for name in re.findall(r"\w+", reference):
            found = found[int(name)] if isinstance(found, list) else found[name]  # type: ignore
        return found
