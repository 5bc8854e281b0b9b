"""Entries of a configuration that were typed, ``--model.prior.components 100``, in their places."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from ppl_vae.cli.flags import STANDARD, Flag
from ppl_vae.cli.settings import SHORT, STRINGS
from ppl_vae.io.config import ConfigError
from ppl_vae.io.config.files import parsed
from ppl_vae.io.errors import told

_NUMBER = re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+")


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


def apply(tree: dict[str, Any], flags: Sequence[Flag]) -> None:
    """Put what was typed in its places, in the given mapping; names of classes first.

    Another class has none of the arguments of the one before.

    Raises:
        ConfigError: if a path leads through what has no entries.
    """
    for flag in sorted(flags, key=lambda flag: flag.path[-1] != "class"):
        path, value = flag.path, value_of(flag)
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


def value_of(flag: Flag) -> Any:
    """Return the value that was typed: a file's name is one, whatever YAML would make of it."""
    path = ".".join(flag.path)
    as_it_is = path in STRINGS or path == "init"
    return flag.text if as_it_is and flag.text != "null" else scalar(flag.text)


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
