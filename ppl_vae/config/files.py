"""Configurations in files: YAML and JSON, read without what either lets pass in silence."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ppl_vae.config.errors import ConfigError, told
from ppl_vae.config.plain import LIMIT, plain

_MERGE = "tag:yaml.org,2002:merge"  # the key <<, which takes in the entries of other mappings


def load(config: Mapping[Any, Any] | str | os.PathLike[str]) -> dict[str, object]:
    """Return the pair's mapping from a mapping or the path of a YAML or JSON file.

    Raises:
        ConfigError: if it is no mapping, or the file cannot be read as YAML or JSON, or has a key
            twice in a mapping.
        OSError: if the file cannot be opened.
    """
    if isinstance(config, (str, os.PathLike)):
        given: object = read_file(Path(config))
    else:
        given = config
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"model must be a mapping with a class, such as {{class: VAE, ...}}, or the path of a "
            f"file that holds one, got {told(given)}"
        )
    try:
        tree = plain(given)
    except RecursionError:
        raise ConfigError("model: the configuration contains itself") from None
    return _of_model(tree)


def dumped(tree: Mapping[str, object]) -> str:
    """Return YAML text; reading it back gives the same mapping, floats included."""
    return yaml.dump(plain(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes lists of numbers on one line."""

    def represent_list(self, data: list) -> yaml.Node:
        flat = not any(isinstance(item, (dict, list)) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


_Dumper.add_representer(list, _Dumper.represent_list)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, and merges (<<) that grow without bound.

    Both are seen as a mapping is read, before merges are carried out: afterwards a key that
    overrides a merged one is there twice, too, and a few lines have filled the memory.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._entries: dict[yaml.Node, int] = {}
        self._total = 0

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # refused later, as all keys that are no strings
            line = key.start_mark.line + 1
            name = key.tag, key.value
            if name in lines:
                raise ConfigError(
                    f"line {line}: the key {key.value!r} stands twice in a mapping, before on line "
                    f"{lines[name]}; leave one of them"
                )
            lines[name] = line
        merges = (value for key, value in node.value if key.tag == _MERGE)
        merged = (self._size(one) for value in merges for one in _each(value))
        self._entries[node] = len(node.value) + sum(merged)
        self._total += self._entries[node]
        if self._total > LIMIT:
            raise ConfigError(f"the configuration has more than {LIMIT} entries")
        return node

    def _size(self, merged: yaml.Node) -> int:
        """Return how many entries a mapping that is merged brings."""
        if not isinstance(merged, yaml.MappingNode):
            return 0  # yaml will refuse it
        if merged not in self._entries:  # not read to its end: the merge is within it
            raise _into_itself(merged)
        return self._entries[merged]


def _each(merged: yaml.Node) -> list[yaml.Node]:
    """Return the mappings that << names: one, or a list of them."""
    if not isinstance(merged, yaml.SequenceNode):
        return [merged]
    if merged.end_mark is None:  # not read to its end
        raise _into_itself(merged)
    return merged.value


def _into_itself(merged: yaml.Node) -> ConfigError:
    line = merged.start_mark.line + 1
    return ConfigError(f"line {line}: a mapping is merged (<<) into itself; write it out")


def _of_model(tree: dict[str, object]) -> dict[str, object]:
    if "class" in tree or "model" not in tree:
        return tree
    if len(tree) > 1:
        others = ", ".join(repr(k) for k in tree if k != "model")
        raise ConfigError(
            f"model: the key 'model' must stand alone, got also {others}; read the file yourself "
            f"and give from_config its 'model'"
        )
    inner = tree["model"]
    if not isinstance(inner, dict):
        raise ConfigError(f"model must be a mapping with a class, got {told(inner)}")
    return inner


def read_file(file: Path) -> object:
    """Return what a YAML or JSON file holds.

    Raises:
        ConfigError: as :func:`load`.
        OSError: if it cannot be opened.
    """
    text = file.read_text(encoding="utf-8")
    try:
        return _json(text) if file.suffix == ".json" else _yaml(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file} is no JSON: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{file} cannot be read: {error}. A configuration is plain YAML; tags that make "
            f"Python objects are not read"
        ) from error
    except RecursionError:
        raise ConfigError(f"{file}: the configuration is nested too deeply") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _yaml(text: str) -> object:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _json(text: str) -> object:
    return json.loads(text, object_pairs_hook=_without_repeats)


def _without_repeats(entries: list[tuple[str, object]]) -> dict[str, object]:
    mapping: dict[str, object] = {}
    for name, value in entries:
        if name in mapping:
            raise ConfigError(f"the key {name!r} stands twice in a mapping; leave one of them")
        mapping[name] = value
    return mapping
