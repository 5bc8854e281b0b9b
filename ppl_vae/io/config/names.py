"""Which classes a configuration may name, and how they are written.

Nothing is imported by a name in a configuration, except from packages that the caller allows.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Collection

from torch import nn

from ppl_vae import likelihoods, models, nets, posteriors, priors
from ppl_vae.constructor import parameters
from ppl_vae.errors import quoted, reason
from ppl_vae.io.config.errors import ConfigError, suggestion, told

ROOMS = {
    "priors": priors,
    "posteriors": posteriors,
    "likelihoods": likelihoods,
    "nets": nets,
    "models": models,
}
PARTS = ("priors", "posteriors", "likelihoods", "nets")
SLOTS = {
    "pair": ("models",),
    "first": ("models",),
    "second": ("models",),
    "prior": ("priors",),
    "conditional": ("priors",),
    "conditionals": ("priors",),
    "posterior": ("posteriors",),
    "posteriors": ("posteriors",),
    "classifier": ("posteriors", "nets"),
    "likelihood": ("likelihoods",),
    "net": ("nets",),
}
"""Per argument the rooms whose classes go there by their short names; all rooms for any other."""

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def public(room: str) -> dict[str, type[nn.Module]]:
    """Return the classes of a room by name: what its ``__all__`` lists, and nothing else."""
    found = ((name, getattr(ROOMS[room], name)) for name in ROOMS[room].__all__)
    return {name: c for name, c in found if _is_module(c) and c is not models.Pair}


def find(name: object, slot: str, path: str, allow: Collection[str]) -> type[nn.Module]:
    """Return the class that a configuration names.

    Args:
        name: ``Name``, looked up in the rooms of the slot; ``room.Name``; or, for a class outside
            the package, its full dotted path.
        slot: the argument that the class is for, such as ``prior``.
        path: where the name stands, for messages.
        allow: top-level packages that may be imported.

    Raises:
        ConfigError: if there is no such class, or it is not allowed.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{path}: class must be the name of a class, got {told(name)}")
    rooms = SLOTS.get(slot, PARTS)
    *package, short = name.split(".")
    if not package:
        for room in rooms:
            if short in public(room):
                return public(room)[short]
        raise ConfigError(f"{path}: there is no {quoted(short)} {_here(short, rooms)}")
    if package[0] == "ppl_vae" or (package[0] in ROOMS and package[0] not in allow):
        room = ".".join(package[package[0] == "ppl_vae" :]) or "models"
        if room not in ROOMS or short not in public(room):
            accepted = {f"{r}.{n}" for r in rooms for n in public(r)}
            raise ConfigError(
                f"{path}: {quoted(name)} is no public part of ppl_vae; {suggestion(name, accepted)}"
            )
        return public(room)[short]
    return _outside(name, path, allow)


def name_of(cls: type, slot: str, path: str) -> str:
    """Return the shortest name by which :func:`find` returns the class.

    Raises:
        ConfigError: if there is none.
    """
    rooms = SLOTS.get(slot, PARTS)
    for room in (*rooms, *ROOMS):
        if public(room).get(cls.__name__) is cls:
            return cls.__name__ if room in rooms else f"{room}.{cls.__name__}"
    return _dotted(cls, path)


def activations() -> dict[str, type[nn.Module]]:
    """Return torch's activation modules by name: those that are made without arguments."""
    names = [*nn.modules.activation.__all__, "Identity"]
    found = {name: getattr(nn, name) for name in names}
    return {
        name: cls
        for name, cls in found.items()
        if name == "Identity" or all(p.default is not p.empty for p in parameters(cls))
    }


def find_activation(name: object, path: str, allow: Collection[str]) -> type[nn.Module]:
    """Return the activation that a configuration names: ``ELU``, ``nn.ELU`` or a dotted path.

    Raises:
        ConfigError: if there is no such activation, or it is not allowed.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{path} must be the name of an activation in torch.nn, such as ELU, got {told(name)}"
        )
    package, _, short = name.rpartition(".")
    if package in ("", "nn", "torch.nn"):
        if short not in activations():
            raise ConfigError(
                f"{path}: there is no activation {quoted(name)}; {suggestion(short, activations())}"
            )
        return activations()[short]
    return _outside(name, path, allow)


def activation_name(cls: object, path: str) -> str:
    """Return the name by which :func:`find_activation` returns the class.

    Raises:
        ConfigError: if there is none.
    """
    if not _is_module(cls):
        raise ConfigError(
            f"{path} is {quoted(cls)}, which a configuration cannot hold; use a class of "
            f"torch.nn, such as nn.ELU, or a torch.nn.Module class of your own, defined in a module"
        )
    assert isinstance(cls, type)
    name = cls.__name__
    return name if activations().get(name) is cls else _dotted(cls, path)


def _here(short: str, rooms: Collection[str]) -> str:
    elsewhere = [f"{r}.{short}" for r in ROOMS if short in public(r)]
    also = f" ({elsewhere[0]} is one of another kind)" if elsewhere else ""
    names = {name for room in rooms for name in public(room)}
    return (
        f"among {' and '.join(rooms)}{also}; {suggestion(short, names)}. A class of your own is "
        f"given by its full path, such as mypackage.MyPart"
    )


def _outside(name: str, path: str, allow: Collection[str]) -> type[nn.Module]:
    package = name.partition(".")[0]
    if package not in allow:
        raise ConfigError(
            f"{path}: {quoted(name)} is outside ppl_vae and was not imported; a configuration "
            f"names parts of ppl_vae. Only for a part of your own, in a package that you wrote or "
            f"would run anyway, there is allow="
        )
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        try:
            found: object = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if cut > 1 and error.name is not None and f"{module}.".startswith(f"{error.name}."):
                continue  # the rest of the path may be a class within a class
            raise ConfigError(
                f"{path}: {quoted(name)} cannot be imported: {reason(error)}"
            ) from error
        except Exception as error:
            raise ConfigError(
                f"{path}: importing {quoted(module)} failed: {reason(error)}"
            ) from error
        for part in parts[cut:]:
            found = getattr(found, part, None)
            # A class imported from elsewhere is not the allowed package's.
            if not isinstance(found, type) or found.__module__.partition(".")[0] not in allow:
                raise ConfigError(f"{path}: {quoted(name)} is no class of the allowed package")
        if not _is_module(found):
            raise ConfigError(f"{path}: {quoted(name)} must be a class of torch.nn.Module")
        return found  # type: ignore[return-value]
    raise AssertionError


def _dotted(cls: type, path: str) -> str:
    name = f"{cls.__module__}.{cls.__qualname__}"
    if name.startswith("ppl_vae."):
        raise ConfigError(f"{path}: {name} is not public, so that a configuration cannot name it")
    if "<locals>" in name:
        raise ConfigError(
            f"{path}: {name} is defined in a function, where a configuration cannot name it; "
            f"define the class at the top of a module"
        )
    return name


def _is_module(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module)
