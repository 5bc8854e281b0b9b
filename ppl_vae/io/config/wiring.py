"""What the parts of each pair see, and the sizes that follow from the pair's own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ppl_vae.errors import quoted
from ppl_vae.io.config.errors import ConfigError

CONTEXTS: dict[str, dict[str, tuple[str, ...]]] = {
    "VAE": {"prior": (), "posterior": ("x",), "likelihood": ("z",)},
    "SemiSupervisedVAE": {
        "prior": ("y",),
        "classifier": ("x",),
        "posterior": ("x", "y"),
        "likelihood": ("z", "y"),
    },
    "ConditionalVAE": {"prior": ("c",), "posterior": ("x", "c"), "likelihood": ("z", "c")},
}
"""Per pair, what its parts are called with. Nothing follows for the parts of any other pair."""

DEFAULTS = {"prior": "StandardNormal", "posterior": "DiagonalNormal", "classifier": "Categorical"}
"""The classes of parts that may be left out."""


def contexts(cls: type) -> dict[str, tuple[str, ...]] | None:
    """Return what the parts of a pair are called with; None if the table does not say."""
    return next((CONTEXTS[c.__name__] for c in cls.__mro__ if c.__name__ in CONTEXTS), None)


def shown(value: object) -> str:
    """Return a size as it is written in YAML."""
    if isinstance(value, (tuple, list)):
        return quoted(value[0]) if len(value) == 1 else quoted(list(value))
    return quoted(value)


@dataclass(frozen=True)
class Size:
    """A size of the pair: its value, None if it was not given, and the path where it stands."""

    name: str
    value: tuple[int, ...] | None
    path: str


@dataclass(frozen=True)
class Wire:
    """A value that follows from sizes of the pair; None if one of those was not given.

    ``firm``: no other value can be right.
    """

    value: object
    sizes: tuple[Size, ...] = ()
    firm: bool = True

    def missing(self) -> str:
        """Return which sizes of the pair were not given."""
        return " and ".join(dict.fromkeys(s.name for s in self.sizes if s.value is None))

    def reason(self) -> str:
        """Return the sizes with their values."""
        return ", ".join(dict.fromkeys(f"{s.path} = {shown(s.value)}" for s in self.sizes))


@dataclass(frozen=True)
class Place:
    """Where a part stands in a pair: its role, what it is called with, and the pair's sizes.

    With no contexts (``None``) nothing is known, and nothing follows.
    """

    role: str = ""
    contexts: tuple[str, ...] | None = None
    sizes: Mapping[str, Size] = field(default_factory=dict)
    posterior: str = ""

    def part(self) -> dict[str, Wire]:
        """Return values for the part's arguments, by their names."""
        if self.contexts is None:
            return {}
        x, z = self.sizes["x"], self.sizes["z"]
        wires = {
            "latent_dim": Wire(z.value and z.value[0], (z,)),
            "event_shape": Wire(x.value, (x,)),
        }
        if x.value is not None:
            wires["event_dim"] = Wire(len(x.value), (x,), firm=False)
        if self.role == "prior":
            wires["posterior"] = Wire(self.posterior)
            if self.contexts:
                wires["context_features"] = self._features(self.contexts)
        return wires

    def net(self, owner: type, options: Mapping[str, object], path: str) -> dict[str, Wire]:
        """Return values for the arguments of the part's network, by their names.

        Args:
            owner: the part's class, whose ``net_features`` or ``net_shape`` says what its network
                must return.
            options: the part's other arguments.
            path: where the part stands, for messages.
        """
        if self.contexts is None:
            return {}
        x, output = self.sizes["x"], self._output(owner, options, path)
        sees_x = self.contexts[:1] == ("x",)
        shape = output.value if isinstance(output.value, tuple) else None
        wires = {
            "in_features": self._features(self.contexts),
            "out_features": Wire(shape and math.prod(shape), output.sizes),
            "image_shape": Wire(x.value, (x,)) if sees_x else output,
        }
        if sees_x and self.contexts[1:]:
            wires["context_features"] = self._features(self.contexts[1:])
        if not owner.__module__.startswith("ppl_vae."):
            # A user's part may prepare what its network sees.
            wires = {k: Wire(w.value, w.sizes, firm=False) for k, w in wires.items()}
        if not sees_x or x.value is not None:
            wires["event_dim"] = Wire(len(x.value or ()) if sees_x else 1, (x,), firm=False)
        return wires

    def default_net(self) -> str | None:
        """Return the class of a network that is left out; convolutional where it sees images."""
        if self.contexts is None:
            return None
        if len(self.sizes["x"].value or ()) != 3 or self.role == "prior":
            return "MLP"
        return "ConvDecoder" if self.role == "likelihood" else "ConvEncoder"

    def image(self) -> Size | None:
        """Return the data's shape if the part's network takes or makes data that are not flat."""
        if self.contexts is None or self.role == "prior":
            return None
        x = self.sizes["x"]
        return x if len(x.value or ()) > 1 else None

    def _features(self, symbols: tuple[str, ...]) -> Wire:
        sizes = tuple(self.sizes[s] for s in symbols)
        widths = [math.prod(s.value) for s in sizes if s.value is not None]
        return Wire(sum(widths) if len(widths) == len(sizes) else None, sizes)

    def _output(self, owner: type, options: Mapping[str, object], path: str) -> Wire:
        of = {"likelihood": "x", "classifier": "y"}.get(self.role, "z")
        name = "net_shape" if of == "x" else "net_features"
        size = self.sizes[of]
        method = getattr(owner, name, None)
        if size.value is None or not callable(method):
            # The number of features of a latent is the posterior's to say.
            return Wire(None if of == "z" else size.value, (size,))
        takes = list(inspect.signature(method).parameters)[1:]
        known = {k: options[k] for k in takes if k in options}
        try:
            result = method(size.value if of == "x" else size.value[0], **known)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}: {error}") from error
        return Wire(tuple(result) if of == "x" else (result,), (size,))
