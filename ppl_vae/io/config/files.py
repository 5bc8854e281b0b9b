"""Configurations in files: YAML and JSON, read without what either lets pass in silence."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from ppl_vae.errors import path_of, quoted, reason
from ppl_vae.files import read_bytes
from ppl_vae.io.config.errors import ConfigError, told
from ppl_vae.io.config.plain import DEEPEST, LIMIT, plain

LARGEST = 2**18
"""Bytes of a configuration, at most."""
_LONGEST = 100  # characters of a number, at most: great ones take long to read
_IN_PYTHON = "read it yourself and give the mapping to from_config, which has no such limit"
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"  # the key <<, which takes in the entries of other mappings


def load(config: Mapping[Any, Any] | str | os.PathLike[str]) -> dict[str, object]:
    """Return the pair's mapping from a mapping or the path of a YAML or JSON file.

    Raises:
        ConfigError: if it is no mapping, or the file cannot be read as YAML or JSON, or has a key
            twice in a mapping.
        OSError: if the file cannot be opened.
    """
    from_file = isinstance(config, (str, os.PathLike))
    given: object = read_file(path_of("", "config", config)) if from_file else config
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"model must be a mapping with a class, such as {{class: VAE, ...}}, or the path of a "
            f"file that holds one, got {told(given)}"
        )
    return _of_model(plain(given, counter=count() if from_file else None))


def dumped(tree: Mapping[str, object]) -> str:
    """Return YAML text; reading it back gives the same mapping, floats included.

    Raises:
        ConfigError: if it cannot be written, or is more than a file may hold.
    """
    own = plain(tree, counter=count())
    text = yaml.dump(own, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    if len(text.encode("utf-8")) > LARGEST:
        raise ConfigError(f"model: the configuration has more than {LARGEST} bytes as YAML")
    return text


class _Dumper(yaml.SafeDumper):
    """Writes lists of numbers on one line."""

    def represent_list(self, data: list) -> yaml.Node:
        flat = not any(isinstance(item, (dict, list)) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


_Dumper.add_representer(list, _Dumper.represent_list)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, and merges (<<) that grow without bound.

    Both are seen as a mapping is read, before merges are carried out: afterwards a key that
    overrides a merged one is there twice, too, and a few lines have filled the memory. Nor does it
    read on where there are too many entries, or they are nested too deeply.

    Args:
        text: what to read.
        aliases: whether a part may stand for another (``*name``).
    """

    def __init__(self, text: str, aliases: bool) -> None:
        super().__init__(text)
        self._aliases = aliases
        self._entries: dict[yaml.Node, int] = {}
        self._total = 0
        self._nodes = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        self._nodes += 1
        if self._nodes > 2 * LIMIT:  # of a mapping, the keys count too
            raise ConfigError(f"the configuration has more than {LIMIT} entries; {_IN_PYTHON}")
        if self._depth > DEEPEST:
            raise ConfigError(f"the configuration is nested too deeply, more than {DEEPEST} levels")
        if not self._aliases and self.check_event(yaml.AliasEvent):
            raise ConfigError("it has an alias (*), which save never writes")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def compose_scalar_node(self, anchor: str | None) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag != _TEXT and len(node.value) > _LONGEST:
            line = node.start_mark.line + 1
            raise ConfigError(f"line {line}: {quoted(node.value, 60)} is too long for a value")
        return node

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
                    f"line {line}: the key {quoted(key.value, 60)} stands twice in a mapping, "
                    f"before on line {lines[name]}; leave one of them"
                )
            lines[name] = line
        merges = (value for key, value in node.value if key.tag == _MERGE)
        merged = (self._size(one) for value in merges for one in _each(value))
        self._entries[node] = len(node.value) + sum(merged)
        self._total += self._entries[node]
        if self._total > LIMIT:
            raise ConfigError(f"the configuration has more than {LIMIT} entries; {_IN_PYTHON}")
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
        others = quoted([k for k in tree if k != "model"])[1:-1]
        raise ConfigError(
            f"model: the key 'model' must stand alone, got also {others}; read the file yourself "
            f"and give from_config its 'model'"
        )
    inner = tree["model"]
    if not isinstance(inner, dict):
        raise ConfigError(f"model must be a mapping with a class, got {told(inner)}")
    return inner


def read_file(file: Path, *, aliases: bool = True) -> object:
    """Return what a YAML or JSON file holds.

    Args:
        file: where.
        aliases: whether YAML's aliases may be in it.

    Raises:
        ConfigError: as :func:`load`, or if it is no file with data, or too long.
        OSError: if it cannot be opened.
    """
    data = read_bytes(file, LARGEST, error=ConfigError, fix=_IN_PYTHON)
    try:
        text = data.decode("utf-8-sig")
        return _json(text) if file.suffix == ".json" else parsed(text, aliases=aliases)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file} is no JSON: {reason(error)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{file} cannot be read: {reason(error, 500)}. A configuration is plain YAML; tags "
            f"that make Python objects are not read"
        ) from error
    except RecursionError:
        raise ConfigError(f"{file}: the configuration is nested too deeply") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    except ValueError as error:  # no text, or a value that cannot be, such as a 13th month
        raise ConfigError(f"{file} cannot be read: {reason(error)}") from error


def parsed(text: str, *, aliases: bool = True) -> object:
    """Return what YAML text holds.

    Raises:
        ConfigError: if a key stands twice, or there is too much in it.
        yaml.YAMLError: if it is no plain YAML.
        ValueError: if a value cannot be, such as a 13th month.
    """
    loader = _Loader(text, aliases)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _json(text: str) -> object:
    return json.loads(text, object_pairs_hook=_without_repeats, parse_int=_integer)


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST:
        raise ConfigError(f"{quoted(digits, 60)} is too long for a value")
    return int(digits)


def _without_repeats(entries: list[tuple[str, object]]) -> dict[str, object]:
    mapping: dict[str, object] = {}
    for name, value in entries:
        if name in mapping:
            raise ConfigError(
                f"the key {quoted(name, 60)} stands twice in a mapping; leave one of them"
            )
        mapping[name] = value
    return mapping
