"""Flags with dots, ``--model.prior.components 100``: entries of a configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from ppl_vae.cli.errors import UsageError
from ppl_vae.cli.settings import SHORT
from ppl_vae.config import ConfigError
from ppl_vae.config.errors import told
from ppl_vae.config.files import parsed

PLACES = ("model", "data", "estimator", "optimiser", "lr_schedule", "fit", "devices")
"""The sections that have entries."""

SWAPS = {
    "prior": "model.prior",
    "posterior": "model.posterior",
    "likelihood": "model.likelihood",
    "estimator": "estimator",
    "optimiser": "optimiser",
    "lr_schedule": "lr_schedule",
}
"""The flags that name a class, and the entry that they replace."""

STANDARD: dict[str, dict[str, object]] = {
    "GaussianMixture": {"components": 500},
    "VampPrior": {"pseudo_inputs": 500},
    "ImportanceWeightedELBO": {"num_particles": 50},
}
"""What a class that is named alone is given, where it has no default: as shipped configurations."""

_FLAG = re.compile(rf"--((?:{'|'.join(PLACES)})\.[^=\s]+)(?:=(.*))?", re.DOTALL)
_NUMBER = re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+")

Override = tuple[list[str], Any]


def split(argv: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Return the command line without its flags with dots, and these as paths and values.

    Raises:
        UsageError: if a flag has no value.
    """
    rest: list[str] = []
    found: list[Override] = []
    todo = list(argv)
    while todo:
        word = todo.pop(0)
        name, equals, value = word.partition("=")
        if name.startswith("--") and name[2:] in SHORT:
            word = f"{name}.{SHORT[name[2:]]}{equals}{value}"
        match = _FLAG.fullmatch(word)
        if match is None:
            rest.append(word)
            continue
        path, text = match.groups()
        if text is None:
            if not todo or todo[0].startswith("--"):
                raise UsageError(f"--{path} needs a value, such as --{path} 10")
            text = todo.pop(0)
        found.append((_keys(path), scalar(text)))
    return rest, found


def scalar(text: str) -> Any:
    """Return the value that a word stands for, read as YAML: ``10``, ``[300, 300]``, ``null``."""
    if _NUMBER.fullmatch(text):
        return float(text)  # YAML wants a point in 1e-3
    try:
        return parsed(text)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError):  # no YAML, or no date
        return text


def apply(tree: dict[str, Any], overrides: Sequence[Override]) -> None:
    """Put values in their places, in the given mapping; names of classes first.

    Another class has none of the arguments of the one before.

    Raises:
        ConfigError: if a path leads through what has no entries.
    """
    for path, value in sorted(overrides, key=lambda o: o[0][-1] != "class"):
        node = _node(tree, path)
        key = path[-1]
        if isinstance(node, list):
            node[_index(node, key, path)] = value
        elif key == "class" and path != ["model", "class"]:
            if node.get("class") != value:
                node.clear()
                node.update({"class": value, **STANDARD.get(str(value), {})})
        else:
            node[key] = value


def _keys(path: str) -> list[str]:
    return [key for key in re.split(r"[.\[\]]+", path) if key]


def _node(tree: dict[str, Any], path: Sequence[str]) -> Any:
    """Return the mapping or list in which the last key of a path stands; made if it is not."""
    node: Any = tree
    for depth, key in enumerate(path[:-1]):
        at: Any = _index(node, key, path) if isinstance(node, list) else key
        child = node[at] if isinstance(node, list) else node.get(at)
        if child is None:
            child = {}
        elif not isinstance(child, (dict, list)):
            short = SHORT.get(key, "class") if depth == 0 else "class"
            if not isinstance(child, str) and short == "class":
                raise ConfigError(
                    f"{'.'.join(path)}: {'.'.join(path[: depth + 1])} is {told(child)}, which has "
                    f"no entries"
                )
            child = {short: child}
        node[at] = child
        node = child
    return node


def _index(node: list[Any], key: str, path: Sequence[str]) -> int:
    if key.isdecimal() and int(key) < len(node):
        return int(key)
    raise ConfigError(f"{'.'.join(path)}: {key!r} is no place in a list of {len(node)}, from 0")
