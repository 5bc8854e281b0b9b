"""From a short configuration to a full one, with every argument of every part."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from ppl_vae.conditional import ConditionalDistribution
from ppl_vae.errors import quoted
from ppl_vae.io.config import wiring
from ppl_vae.io.config.files import load
from ppl_vae.io.config.names import SLOTS, activation_name, find, find_activation, name_of, public
from ppl_vae.io.config.references import Reference, is_reference, link, unlink
from ppl_vae.io.config.signature import (
    Argument,
    arguments_of,
    convert,
    plain,
    refuse_unknown,
    words,
)
from ppl_vae.io.config.wiring import DEFAULTS, SETTINGS, Place, Wire, shown
from ppl_vae.io.errors import ConfigError, brief, suggestion
from ppl_vae.models import Pair

NOWHERE = Place()


def resolve(
    config: Mapping[Any, Any] | str | os.PathLike[str],
    *,
    allow: Collection[str] = (),
    data: object = None,
) -> dict[str, object]:
    """Return the full mapping for a short configuration, see :func:`ppl_vae.from_config`.

    Nothing is built. Of ``data`` only the shape and the number of classes are used.

    Example:
        >>> full = resolve(
        ...     {"class": "VAE", "latent_dim": 2, "event_shape": 5, "likelihood": "Bernoulli"}
        ... )
        >>> full["posterior"]["net"]["out_features"]
        4
    """
    return unlink(graph(config, allow=allow, data=data))


def graph(
    config: Mapping[Any, Any] | str | os.PathLike[str], *, allow: Collection[str], data: object
) -> dict[str, object]:
    """Return the same with objects for references: a module that occurs twice is one mapping."""
    if isinstance(allow, str):
        raise TypeError(
            f"allow must be a collection of package names, such as ({allow!r},), got {allow!r}"
        )
    full = _Resolver(allow).module(load(config), "model", "pair", NOWHERE, {}, data)
    assert isinstance(full, dict)
    return link(full)


class _Resolver:
    """Completes one configuration; knows which packages may be imported."""

    def __init__(self, allow: Collection[str]) -> None:
        self.allow = allow

    def module(
        self,
        given: object,
        path: str,
        slot: str,
        place: Place,
        wires: Mapping[str, Wire],
        data: object = None,
    ) -> object:
        """Return the full mapping of a module, or a reference to one.

        ``given`` is the name of its class, a mapping or a reference; ``slot`` the argument that it
        is for; ``wires`` has values of its arguments that follow from its ``place``.
        """
        if is_reference(given):
            return Reference(given)
        cls, given = self._class(given, path, slot, place)
        arguments = arguments_of(cls, path)
        roles = wiring.contexts(cls) if issubclass(cls, Pair) else None
        settings = [] if roles is None else [s for s in SETTINGS if s not in arguments]
        advice = "give the sizes of each part; " if issubclass(cls, Pair) else ""
        fixes = dict.fromkeys(SETTINGS, advice)
        refuse_unknown(cls.__name__, given, [*arguments, *settings], path, fixes)
        if data is not None and not issubclass(cls, Pair):
            raise ConfigError(f"{path}: {cls.__name__} takes no data=; give sizes where needed")
        of_data = [] if roles is None else wiring.add_from_data(given, arguments, data, path)
        _check_image_networks(cls, arguments, place if slot == "net" else NOWHERE, wires, path)

        full: dict[str, object] = {"class": name_of(cls, slot, path)}
        modules = {k: a for k, a in arguments.items() if _holds_modules(a, given.get(k))}
        for name, argument in arguments.items():
            full[name] = None  # in the signature's order
            if name not in modules:
                full[name] = self._value(cls, argument, given, path, wires.get(name))
        sizes = {}
        if roles is not None:
            sizes = wiring.sizes_of(given, full, of_data, path, self._find)
        for name, argument in modules.items():
            at, value, within, inner = f"{path}.{name}", given.get(name), NOWHERE, {}
            if roles is not None and name in roles:
                within = Place(name, roles[name], sizes, path.partition(".")[2])
                inner = within.part(value)
                value = DEFAULTS.get(name) if value is None else value
            elif name == "net":
                within = place
                inner = dict(wires) if slot == "net" else place.net(cls, full, path)
                if value is None and argument.required:
                    value = place.default_net()
            elif name == "codes_prior":
                inner = place.codes_prior()
            if value is None and name in wires:
                value = wires[name].value
            if value is not None:
                full[name] = self._modules(argument, value, at, within, inner)
            elif argument.required:
                raise ConfigError(_missing(cls, argument, path, None))
        return {k: v for k, v in full.items() if v is not inspect.Parameter.empty}

    def _class(
        self, given: object, path: str, slot: str, place: Place
    ) -> tuple[type[nn.Module], dict[str, object]]:
        """Return the class that is given or follows, and its arguments."""
        if isinstance(given, str):
            given = {"class": given}
        if not isinstance(given, dict):
            raise ConfigError(
                f"{path} must be the name of a class, a mapping with one, or a reference such as "
                f"${{posterior}}, got {brief(given)}"
            )
        name = given.get("class")
        if name is None and place.contexts is not None:
            name = place.default_net() if slot == "net" else DEFAULTS.get(slot)
        if name is None:
            raise ConfigError(f"{path}: class is missing; give one, such as {_example(slot)}")
        cls = find(name, slot, path, self.allow)
        own = cls.__module__.startswith("ppl_vae.models.")
        if slot == "pair" and not (issubclass(cls, Pair) or own):
            accepted = suggestion("", public("models"))
            raise ConfigError(f"{path}: {quoted(name)} is not a pair; {accepted}")
        if slot == "classifier" and not issubclass(cls, ConditionalDistribution):
            # as SemiSupervisedVAE wraps a bare network
            return find("Categorical", slot, path, ()), {"net": {**given, "class": name}}
        return cls, {k: v for k, v in given.items() if k != "class"}

    def _find(self, name: str, slot: str, path: str) -> type[nn.Module]:
        return find(name, slot, path, self.allow)

    def _value(
        self,
        cls: type,
        argument: Argument,
        given: Mapping[str, object],
        path: str,
        wire: Wire | None,
    ) -> object:
        """Return the value of an argument without modules."""
        name, at = argument.name, f"{path}.{argument.name}"
        if name in given:
            value = given[name]
            if argument.kind == "activation":
                optional = value is None and argument.default is None
                found = None if optional else find_activation(value, at, self.allow)
                return found and activation_name(found, at)
            value = plain(convert(argument, value, at), at)
            wired = None if wire is None or not wire.firm else plain(wire.value, at)
            own = cls.__module__.startswith("ppl_vae.")
            if own and wire and None not in (value, wired) and value != wired:
                raise ConfigError(
                    f"{at} is {shown(value)}, but {wire.reason()} makes it {shown(wired)}; leave "
                    f"one of them out"
                )
            return value
        if wire is not None and wire.value is not None:
            return plain(wire.value, at)
        if argument.required:
            raise ConfigError(_missing(cls, argument, path, wire))
        if argument.kind == "activation" and argument.default is not None:
            return activation_name(argument.default, at)
        try:
            return plain(argument.default, at)
        except ConfigError:
            return inspect.Parameter.empty  # cannot be written, and is left out

    def _modules(
        self, argument: Argument, value: object, path: str, place: Place, wires: Mapping[str, Wire]
    ) -> object:
        """Return the full mapping of an argument's module, or of each in a list."""
        if argument.kind == "parts" or (argument.kind == "unknown" and isinstance(value, list)):
            if not isinstance(value, list):
                raise ConfigError(f"{path} must be a list of mappings, got {brief(value)}")
            return [
                self.module(item, f"{path}[{i}]", argument.name, NOWHERE, {})
                for i, item in enumerate(value)
            ]
        return self.module(value, path, argument.name, place, wires)


def _example(slot: str) -> str:
    if slot in ("pair", "first", "second"):
        return "class: VAE"
    return f"class: {DEFAULTS.get(slot, 'Bernoulli' if slot == 'likelihood' else 'MLP')}"


def _holds_modules(argument: Argument, value: object) -> bool:
    if argument.kind in ("part", "parts"):
        return True
    items = value if isinstance(value, list) else [value]
    marked = any(is_reference(v) or (isinstance(v, dict) and "class" in v) for v in items)
    return argument.kind == "unknown" and (argument.name in SLOTS or marked)


def _check_image_networks(
    cls: type, arguments: Mapping[str, Argument], place: Place, wires: Mapping[str, Wire], path: str
) -> None:
    """Raise an error if a network for flat data would see images, or one for images flat data."""
    if not cls.__module__.startswith("ppl_vae.") or place.contexts is None:
        return
    image = place.image()
    shape = wires["image_shape"].value if "image_shape" in wires else None
    if "image_shape" in arguments and isinstance(shape, tuple) and len(shape) != 3:
        x = place.sizes["x"]
        raise ConfigError(
            f"{path}: {cls.__name__} is a network for images, but {x.path} = {shown(x.value)}; "
            f"give event_shape: [channels, height, width], such as [1, 28, 28]"
        )
    if "in_features" in arguments and "image_shape" not in arguments and image is not None:
        raise ConfigError(
            f"{path}: {cls.__name__} is a network for flat data, but {image.path} = "
            f"{shown(image.value)}; use a ConvEncoder for the posterior and a ConvDecoder for the "
            f"likelihood, or flat networks for both and event_shape: {math.prod(image.value or ())}"
        )


def _missing(cls: type, argument: Argument, path: str, wire: Wire | None) -> str:
    name, sizes = argument.name, wire.missing() if wire is not None else ""
    fix = ""
    if name == "net":
        fix = ", such as {class: MLP, in_features: 784, out_features: 20}"
    elif sizes:
        fix = f", or {sizes} of the pair, from which it follows"
    elif argument.kind == "value":
        fix = f", {words(argument.hint)}"
    return f"{path}.{name} is missing: {cls.__name__} needs it; give it{fix}"
