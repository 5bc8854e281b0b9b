"""From a live pair to the full mapping that builds another like it."""

from __future__ import annotations

from torch import Tensor, nn

from ppl_vae.constructor import arguments
from ppl_vae.io.config.errors import ConfigError, told
from ppl_vae.io.config.names import activation_name, name_of
from ppl_vae.io.config.plain import plain
from ppl_vae.io.config.references import unlink
from ppl_vae.io.config.signature import Argument, arguments_of


def read(pair: nn.Module) -> dict[str, object]:
    """Return a pair's full mapping.

    Raises:
        ConfigError: if something in it cannot be written, or not be read back.
    """
    return unlink(_Reader().module(pair, "model", "pair"))


class _Reader:
    """Reads each module once: what occurs twice is one mapping."""

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
                f"{path} is {told(value)}, and a configuration holds no tensors; keep them in "
                f"the state_dict, and let the constructor take their number or shape"
            )
        if isinstance(value, type):
            raise ConfigError(
                f"{path} is a class, and its type hint does not say that it makes an activation; "
                f"annotate the argument as Callable[[], nn.Module]"
            )
        return plain(value, path)
