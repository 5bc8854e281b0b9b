"""The classes that a configuration may name, and their names.

A name in a configuration imports nothing, except from packages that the caller allows.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Collection

from torch import nn

from ppl_vae import columns, likelihoods, models, nets, posteriors, priors
from ppl_vae.constructor import parameters
from ppl_vae.errors import quoted, reason
from ppl_vae.io.errors import ConfigError, brief, suggestion

PACKAGES = {
    "priors": priors,
    "posteriors": posteriors,
    "likelihoods": likelihoods,
    "nets": nets,
    "columns": columns,
    "models": models,
}
PARTS = ("priors", "posteriors", "likelihoods", "nets")
SLOTS = {
    "pair": ("models",),
    "first": ("models",),
    "second": ("models",),
    "prior": ("priors",),
    "codes_prior": ("priors",),
    "conditional": ("priors",),
    "conditionals": ("priors",),
    "posterior": ("posteriors",),
    "posteriors": ("posteriors",),
    "classifier": ("posteriors", "nets"),
    "likelihood": ("likelihoods",),
    "missingness": ("likelihoods",),
    "net": ("nets", "columns"),
    "columns": ("columns",),
}
"""Per argument, the packages whose classes are written by their short names; else ``PARTS``."""

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@functools.cache
def public(package: str) -> dict[str, type[nn.Module]]:
    """Return the classes in a package's ``__all__`` by name."""
    found = ((name, getattr(PACKAGES[package], name)) for name in PACKAGES[package].__all__)
    return {name: c for name, c in found if _is_module(c) and c is not models.Pair}


def find(name: object, slot: str, path: str, allow: Collection[str]) -> type[nn.Module]:
    """Return the class that a configuration names.

    The name is ``Name``, looked up in the packages of the slot, an argument such as ``prior``;
    ``package.Name``; or, for a class outside ppl_vae, its full dotted path. ``path`` is the name's
    place, for messages; ``allow`` names top-level packages that may be imported.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{path}: class must be the name of a class, got {brief(name)}")
    packages = SLOTS.get(slot, PARTS)
    *parents, short = name.split(".")
    if not parents:
        known = _by_short_name(packages)
        if short in known:
            return known[short]
        there = [f" ({p}.{short} is one of another kind)" for p in PACKAGES if short in public(p)]
        where = f"among {' and '.join(packages)}{''.join(there[:1])}"
        raise ConfigError(
            f"{path}: there is no {quoted(short)} {where}; {suggestion(short, known)}. A class of "
            f"your own is given by its full path, such as mypackage.MyPart"
        )
    if parents[0] == "ppl_vae" or (parents[0] in PACKAGES and parents[0] not in allow):
        package = ".".join(parents[parents[0] == "ppl_vae" :]) or "models"
        if package not in PACKAGES or short not in public(package):
            accepted = suggestion(name, {f"{p}.{n}" for p in packages for n in public(p)})
            raise ConfigError(
                f"{path}: {quoted(name)} is not a public class of ppl_vae; {accepted}"
            )
        return public(package)[short]
    return _imported(name, path, allow)


def name_of(cls: type, slot: str, path: str) -> str:
    """Return the shortest name by which :func:`find` returns the class."""
    if _by_short_name(SLOTS.get(slot, PARTS)).get(cls.__name__) is cls:
        return cls.__name__
    for package in PACKAGES:
        if public(package).get(cls.__name__) is cls:
            return f"{package}.{cls.__name__}"
    return _dotted(cls, path)


def _by_short_name(packages: Collection[str]) -> dict[str, type[nn.Module]]:
    """Return the classes of packages by name; of two with one name that of the first package."""
    return {n: cls for package in reversed([*packages]) for n, cls in public(package).items()}


@functools.cache
def activations() -> dict[str, type[nn.Module]]:
    """Return torch's activation modules by name: those that need no arguments."""
    found = {name: getattr(nn, name) for name in nn.modules.activation.__all__}
    alone = {n: c for n, c in found.items() if all(p.default is not p.empty for p in parameters(c))}
    return {**alone, "Identity": nn.Identity}


def find_activation(name: object, path: str, allow: Collection[str]) -> type[nn.Module]:
    """Return the activation that is named ``ELU``, ``nn.ELU`` or by a dotted path."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{path} must be the name of an activation in torch.nn, such as ELU, got {brief(name)}"
        )
    package, _, short = name.rpartition(".")
    if package in ("", "nn", "torch.nn"):
        known = activations()
        if short not in known:
            accepted = suggestion(short, known)
            raise ConfigError(f"{path}: there is no activation {quoted(name)}; {accepted}")
        return known[short]
    return _imported(name, path, allow)


def activation_name(cls: object, path: str) -> str:
    """Return the name by which :func:`find_activation` returns the class."""
    if not _is_module(cls):
        raise ConfigError(
            f"{path} is {quoted(cls)}, which a configuration cannot hold; use a class of "
            f"torch.nn, such as nn.ELU, or a torch.nn.Module class of your own in a module"
        )
    assert isinstance(cls, type)
    name = cls.__name__
    return name if activations().get(name) is cls else _dotted(cls, path)


def _imported(name: str, path: str, allow: Collection[str]) -> type[nn.Module]:
    package = name.partition(".")[0]
    if package not in allow:
        raise ConfigError(
            f"{path}: {quoted(name)} is outside ppl_vae and was not imported; a part of your own, "
            f"in a package that you wrote or would run anyway, takes from_config(..., "
            f"allow=[{package!r}]), in Python: the command line imports none"
        )
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        try:
            found: object = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if cut > 1 and error.name is not None and f"{module}.".startswith(f"{error.name}."):
                continue  # the end of the path may be a nested class
            why = f"{quoted(name)} cannot be imported: {reason(error)}"
            raise ConfigError(f"{path}: {why}") from error
        except Exception as error:
            why = f"importing {quoted(module)} failed: {reason(error)}"
            raise ConfigError(f"{path}: {why}") from error
        for part in parts[cut:]:
            found = getattr(found, part, None)
            # A class that the package imported from elsewhere is not allowed.
            if not isinstance(found, type) or found.__module__.partition(".")[0] not in allow:
                raise ConfigError(f"{path}: {quoted(name)} is not a class of the allowed package")
        if not _is_module(found):
            raise ConfigError(f"{path}: {quoted(name)} must be a class of torch.nn.Module")
        return found  # type: ignore[return-value]
    raise AssertionError


def _dotted(cls: type, path: str) -> str:
    name = f"{cls.__module__}.{cls.__qualname__}"
    if name.startswith("ppl_vae."):
        raise ConfigError(f"{path}: {name} is not public, and cannot be named in a configuration")
    if "<locals>" in name:
        raise ConfigError(f"{path}: {name} is local; define the class at the top level of a module")
    return name


def _is_module(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module)
