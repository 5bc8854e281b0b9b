"""References to a module that occurs twice: ``${posterior}``, its path from the pair.

Internally a configuration is a graph, in which a mapping that occurs twice is one object.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from ppl_vae.io.errors import ConfigError

_REFERENCE = re.compile(r"\$\{([\w.\[\]]+)\}")


class Reference(str):
    """A reference, as opposed to a string that looks like one."""

    __slots__ = ()


def is_reference(value: object) -> bool:
    """Return whether a value is written as a reference."""
    return isinstance(value, str) and value.startswith("${")


def link(tree: dict[str, object]) -> dict[str, object]:
    """Replace each :class:`Reference`, in place, by the mapping that it refers to."""
    todo: list[tuple[str, dict | list]] = [("model", tree)]
    found: list[tuple[Any, object, dict]] = []
    while todo:
        path, node = todo.pop()
        for key, value, at in _entries(node, path):
            if isinstance(value, Reference):
                found.append((node, key, _target(tree, value, at)))
            elif isinstance(value, (dict, list)):
                todo.append((at, value))
    for node, key, target in found:
        node[key] = target
    return tree


def unlink(graph: dict[str, object]) -> dict[str, object]:
    """Return a tree with each mapping where it is nearest to the pair, and references elsewhere."""
    root: dict[str, object] = {}
    written = {id(graph): "model"}
    todo: deque[tuple[str, dict | list, dict | list]] = deque([("model", graph, root)])
    while todo:
        path, node, copy = todo.popleft()
        for key, value, at in _entries(node, path):
            if isinstance(value, dict) and id(value) in written:
                value = f"${{{written[id(value)].removeprefix('model.')}}}"
            elif isinstance(value, (dict, list)):
                if isinstance(value, dict):
                    written[id(value)] = at
                below: dict | list = {} if isinstance(value, dict) else [None] * len(value)
                # The items of a list are as near to the pair as other arguments.
                place = todo.appendleft if isinstance(value, list) else todo.append
                place((at, value, below))
                value = below
            copy[key] = value
    return root


def _entries(node: dict | list, path: str) -> list[tuple]:
    if isinstance(node, dict):
        return [(key, value, f"{path}.{key}") for key, value in node.items()]
    return [(i, value, f"{path}[{i}]") for i, value in enumerate(node)]


def _target(tree: dict[str, object], reference: str, path: str) -> dict:
    match = _REFERENCE.fullmatch(reference)
    found: object = tree
    for name in re.split(r"[.\[\]]+", match[1].strip("]")) if match else [None]:
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and str(name).isdecimal() and int(str(name)) < len(found):
            found = found[int(str(name))]
        else:
            found = None
    if isinstance(found, Reference):
        raise ConfigError(
            f"{path}: {reference} refers to another reference, {found!s}; use that one here"
        )
    if not isinstance(found, dict):
        parts = ", ".join(f"${{{k}}}" for k, v in tree.items() if type(v) is dict)
        raise ConfigError(
            f"{path}: {reference} is not a part of the pair; a reference is the path of a part, "
            f"such as {parts or '${posterior}'}"
        )
    return found
