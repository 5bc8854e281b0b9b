"""The sizes of a pair, the inputs of its parts, and the arguments that follow from them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ppl_vae.errors import quoted
from ppl_vae.event_shapes import as_image, how_to_arrange, same_event
from ppl_vae.io.config.references import is_reference
from ppl_vae.io.config.signature import Argument, convert
from ppl_vae.io.errors import ConfigError, brief

SETTINGS = {
    "latent_dim": Argument("latent_dim", "value", int, None),
    "event_shape": Argument("event_shape", "value", int | Sequence[int], None),
}
"""Sizes that are given at the pair, whatever its constructor takes."""

CODES = ("categories", "codes")
"""Further sizes of discrete latents, given at the prior or the posterior."""

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


def shown(value: object) -> str:
    """Return a size as YAML."""
    if isinstance(value, (tuple, list)):
        return quoted(value[0]) if len(value) == 1 else quoted(list(value))
    return quoted(value)


@dataclass(frozen=True)
class Size:
    """A size of the pair: its value, None if it was not given, and its path.

    ``features`` is what networks see of it, where that is not the product of the value: of codes
    one-hot.
    """

    name: str
    value: tuple[int, ...] | None
    path: str
    features: int | None = None


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

    def part(self, given: object = None) -> dict[str, Wire]:
        """Return values for the part's arguments by name; ``given`` are those in the mapping."""
        if self.contexts is None:
            return {}
        x, z = self.sizes["x"], self.sizes["z"]
        wires = {
            "latent_dim": Wire(z.value and z.value[0], (z,)),
            "event_shape": Wire(x.value, (x,)),
        }
        if x.value is not None:
            wires["event_dim"] = Wire(len(x.value), (x,), firm=False)
        if isinstance(given, Mapping) and "per-element" in given.values():
            shape = x.value or ()
            wires["elements"] = Wire(shape[0] if len(shape) == 1 else x.value, (x,), firm=False)
        categories = self.sizes["categories"]
        if self.role in ("prior", "posterior") and categories.value is not None:
            wires["categories"] = Wire(categories.value[0], (categories,))
        if self.role == "prior":
            path = f"{self.pair}.posterior".removeprefix(".")
            wires["posterior"] = Wire(f"${{{path}}}")
            if self.contexts:
                wires["context_features"] = self._features(self.contexts)
        return wires

    def codes_prior(self) -> dict[str, Wire]:
        """Return values for the arguments of a prior over the codes of a codebook."""
        if self.contexts is None:
            return {}
        z, codes = self.sizes["z"], self.sizes["codes"]
        wires = {"latent_dim": Wire(z.value and z.value[0], (z,))}
        if codes.value is not None:
            wires["categories"] = Wire(codes.value[0], (codes,))
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
            "in_features": self._inputs(owner, options),
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

    def _inputs(self, owner: type, options: Mapping[str, object]) -> Wire:
        """Return the width of the network's input: a likelihood may keep some of it to itself."""
        assert self.contexts is not None
        wire = self._features(self.contexts)
        method = getattr(owner, "net_inputs", None)
        if self.role != "likelihood" or wire.value is None or not callable(method):
            return wire
        takes = list(inspect.signature(method).parameters)[1:]
        known = {k: options[k] for k in takes if k in options}
        return Wire(method(wire.value, **known), wire.sizes)

    def _features(self, symbols: tuple[str, ...]) -> Wire:
        sizes = tuple(self.sizes[s] for s in symbols)
        widths = [s.features or math.prod(s.value) for s in sizes if s.value is not None]
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


def add_from_data(
    given: dict[str, object], arguments: Mapping[str, Argument], data: object, path: str
) -> list[str]:
    """Add the event shape and the number of classes from the data, where they are not given.

    Returns the names of what was added.
    """
    if data is None:
        return []
    before = [name for name, value in given.items() if value is not None]
    shape = data.shape[1:] if isinstance(data, Tensor) else getattr(data, "event_shape", None)
    if shape is None:
        raise TypeError(
            f"data must be a ppl_vae.data.Dataset, a tensor (N, *event) or have an event_shape, "
            f"got {brief(data)}"
        )
    size = math.prod(shape)
    written, at = _setting("event_shape", given, path), f"{path}.event_shape"
    if written is None:  # a full mapping has it at its networks
        written, at = _posterior_image_shape(given), f"{path}.posterior.net.image_shape"
    if written is None:
        images = any(_has_conv_net(given.get(part)) for part in ("likelihood", "posterior"))
        try:
            given["event_shape"] = [int(s) for s in as_image(shape)] if images else size
        except ValueError as error:
            raise ConfigError(f"{path}.event_shape: {error}") from error
    elif not same_event(shape, written):
        raise ConfigError(
            f"{at} is {shown(written)}, but the data have the shape {shown(shape)}; leave "
            f"{at.rpartition('.')[2]} out, or {how_to_arrange(shape, written)}"
        )
    else:
        given["event_shape"] = list(written)
    is_open = all(given.get(k) is None for k in ("num_classes", "context_features"))
    context = getattr(data, "context", None)
    if "context_features" in arguments and is_open and context is not None:
        given["context_features"] = context.shape[1]
    elif "num_classes" in arguments and is_open and getattr(data, "labels", None) is not None:
        given["num_classes"] = data.num_classes  # type: ignore[attr-defined]
    return [name for name in given if name not in before]


def _posterior_image_shape(given: Mapping[str, object]) -> tuple[int, ...] | None:
    """Return the image shape given to the posterior's network, which sees the data."""
    posterior = given.get("posterior")
    net = posterior.get("net") if isinstance(posterior, dict) else None
    shape = net.get("image_shape") if isinstance(net, dict) else None
    return tuple(shape) if isinstance(shape, (list, tuple)) else None


def _has_conv_net(part: object) -> bool:
    """Return whether a part is given a convolutional network."""
    net = part.get("net") if isinstance(part, dict) else None
    name = net.get("class") if isinstance(net, dict) else net
    return isinstance(name, str) and name.rpartition(".")[2].startswith("Conv")


def sizes_of(
    given: Mapping[str, object],
    full: Mapping[str, object],
    of_data: Sequence[str],
    path: str,
    class_of: Callable[[str, str, str], type],
) -> dict[str, Size]:
    """Return the pair's sizes: x, z, y or c, and those of discrete latents.

    ``class_of(name, slot, path)`` returns the class that a configuration names.
    """

    def at_pair(name: str) -> str:
        return f"the data's {name}" if name in of_data else f"{path}.{name}"

    latent, at = _setting("latent_dim", given, path), f"{path}.latent_dim"
    for name in ("prior", "posterior"):
        part = given.get(name)
        if latent is None and isinstance(part, dict):
            latent, at = _setting("latent_dim", part, f"{path}.{name}"), f"{path}.{name}.latent_dim"
    classes, features = full.get("num_classes"), full.get("context_features")
    context = "num_classes" if features is None else "context_features"
    width = classes if features is None else features
    further = Size(
        "num_classes" if "context_features" not in full else "num_classes or context_features",
        (width,) if isinstance(width, int) else None,
        at_pair(context),
    )
    codes = {name: _size_of_codes(name, given, path) for name in CODES}
    features = _features_of_latents(latent, codes["categories"], given, path, class_of)
    return {
        "x": Size("event_shape", _setting("event_shape", given, path), at_pair("event_shape")),
        "z": Size("latent_dim", latent, at, features),
        "y": further,
        "c": further,
        **codes,
    }


def _size_of_codes(name: str, given: Mapping[str, object], path: str) -> Size:
    """Return a size of discrete latents, given at the posterior or the prior."""
    for role in ("posterior", "prior"):
        part = given.get(role)
        value = part.get(name) if isinstance(part, dict) else None
        if type(value) is int:  # or the part refuses it
            return Size(name, (value,), f"{path}.{role}.{name}")
    return Size(name, None, f"{path}.posterior.{name}")


def _features_of_latents(
    latent: tuple[int, ...] | None,
    categories: Size,
    given: Mapping[str, object],
    path: str,
    class_of: Callable[[str, str, str], type],
) -> int | None:
    """Return the number of entries of z that a part says by ``latent_features``, None if none."""
    shared = {} if categories.value is None else {"categories": categories.value[0]}
    for role in ("posterior", "prior"):
        part = given.get(role)
        part = {"class": part} if isinstance(part, str) else part
        name = part.get("class") if isinstance(part, dict) else None
        if latent is None or not isinstance(part, dict) or not isinstance(name, str):
            continue
        if is_reference(name):
            continue
        method = getattr(class_of(name, role, f"{path}.{role}"), "latent_features", None)
        if callable(method):
            takes = list(inspect.signature(method).parameters)[1:]
            options = {k: v for k, v in {**shared, **part}.items() if k in takes}
            try:
                return int(method(latent[0], **options))
            except (TypeError, ValueError):
                continue  # which the part reports
    return None


def _setting(name: str, given: Mapping[str, object], path: str) -> tuple[int, ...] | None:
    """Return a given size, checked."""
    if given.get(name) is None:
        return None
    value = convert(SETTINGS[name], given[name], f"{path}.{name}")
    sizes = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not sizes or any(type(s) is not int or s < 1 for s in sizes):
        raise ConfigError(f"{path}.{name} must be 1 or more, got {shown(value)}")
    return sizes
