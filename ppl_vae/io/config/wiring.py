"""The inputs of each pair's parts, and the arguments that follow from the pair's sizes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ppl_vae.io.config.sizes import Size, shown
from ppl_vae.io.errors import ConfigError

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
"""Per pair, the inputs of its parts. For other pairs nothing is derived."""

DEFAULTS = {"prior": "StandardNormal", "posterior": "DiagonalNormal", "classifier": "Categorical"}
"""Default classes of parts."""


def contexts(cls: type) -> dict[str, tuple[str, ...]] | None:
    """Return the inputs of a pair's parts; None if they are not in the table."""
    return next((CONTEXTS[c.__name__] for c in cls.__mro__ if c.__name__ in CONTEXTS), None)


@dataclass(frozen=True)
class Wire:
    """A value that follows from sizes of the pair; None if one of them was not given.

    ``firm``: any other value would be wrong.
    """

    value: object
    sizes: tuple[Size, ...] = ()
    firm: bool = True

    def missing(self) -> str:
        """Return the sizes that were not given."""
        return " and ".join(dict.fromkeys(s.name for s in self.sizes if s.value is None))

    def reason(self) -> str:
        """Return the sizes and their values."""
        return ", ".join(dict.fromkeys(f"{s.path} = {shown(s.value)}" for s in self.sizes))


@dataclass(frozen=True)
class Place:
    """A part's place: its role, its inputs (contexts), and the pair's sizes and path.

    Without contexts (``None``) nothing can be derived.
    """

    role: str = ""
    contexts: tuple[str, ...] | None = None
    sizes: Mapping[str, Size] = field(default_factory=dict)
    pair: str = ""

    def part(self) -> dict[str, Wire]:
        """Return values for the part's arguments by name."""
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
            path = f"{self.pair}.posterior".removeprefix(".")
            wires["posterior"] = Wire(f"${{{path}}}")
            if self.contexts:
                wires["context_features"] = self._features(self.contexts)
        return wires

    def net(self, owner: type, options: Mapping[str, object], path: str) -> dict[str, Wire]:
        """Return values for the arguments of the part's network by name.

        The part's class, ``owner``, gives the output size by its ``net_features`` or ``net_shape``,
        from its other arguments, ``options``.
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
            # A user's part may transform its network's inputs.
            wires = {k: Wire(w.value, w.sizes, firm=False) for k, w in wires.items()}
        if not sees_x or x.value is not None:
            wires["event_dim"] = Wire(len(x.value or ()) if sees_x else 1, (x,), firm=False)
        return wires

    def default_net(self) -> str | None:
        """Return the default class of the network, convolutional for images."""
        if self.contexts is None:
            return None
        if len(self.sizes["x"].value or ()) != 3 or self.role == "prior":
            return "MLP"
        return "ConvDecoder" if self.role == "likelihood" else "ConvEncoder"

    def image(self) -> Size | None:
        """Return the data's shape if the part's network takes or returns data that are not flat."""
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
            # How many features a latent takes, only the posterior can say.
            return Wire(None if of == "z" else size.value, (size,))
        takes = list(inspect.signature(method).parameters)[1:]
        known = {k: options[k] for k in takes if k in options}
        try:
            result = method(size.value if of == "x" else size.value[0], **known)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}: {error}") from error
        return Wire(tuple(result) if of == "x" else (result,), (size,))
