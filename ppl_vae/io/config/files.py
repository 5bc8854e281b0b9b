"""Configuration files: the one reader and writer of YAML and JSON, with limits."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from ppl_vae.errors import path_of, quoted, reason
from ppl_vae.files import read_bytes
from ppl_vae.io.config.signature import plain
from ppl_vae.io.errors import ConfigError, brief
from ppl_vae.io.format import CONFIG_BYTES, CONFIG_DEPTH, CONFIG_ENTRIES, SCALAR_LENGTH

_FIX = "read it yourself and give the mapping to from_config, which has no such limit"
_TOO_MANY = f"the configuration has more than {CONFIG_ENTRIES} entries; {_FIX}"
_TOO_DEEP = f"the configuration is nested too deeply, more than {CONFIG_DEPTH} levels"
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"  # the key <<, which includes the entries of other mappings


def load(config: Mapping[Any, Any] | str | os.PathLike[str]) -> dict[str, object]:
    """Return the pair's mapping from a mapping or the path of a YAML or JSON file."""
    from_file = isinstance(config, (str, os.PathLike))
    given: object = _read_existing(path_of("", "config", config)) if from_file else config
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"model must be a mapping with a class, such as {{class: VAE, ...}}, or the path of a "
            f"file that holds one, got {brief(given)}"
        )
    return _of_model(plain(given, counter=count() if from_file else None))


def _read_existing(file: Path) -> object:
    try:
        return read_file(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"config must be a mapping, or the path of an existing YAML or JSON file, got "
            f"{quoted(os.fspath(file))}"
        ) from error


def dumped(tree: Mapping[str, object]) -> str:
    """Return a mapping as YAML text, from which the same mapping is read back, floats included."""
    own = plain(tree, counter=count())
    text = yaml.dump(own, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    if len(text.encode("utf-8")) > CONFIG_BYTES:
        raise ConfigError(f"model: the configuration has more than {CONFIG_BYTES} bytes as YAML")
    return text


class _Dumper(yaml.SafeDumper):
    """Writes lists of numbers on one line."""

    def represent_list(self, data: list) -> yaml.Node:
        flat = not any(isinstance(item, (dict, list)) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


_Dumper.add_representer(list, _Dumper.represent_list)


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, merges (<<) that expand without bound, and what exceeds the limits.

    All are found while nodes are composed, before merges are carried out: afterwards a key that
    overrides a merged one would be a duplicate, too, and a few lines would fill the memory.
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
        if self._nodes > 2 * CONFIG_ENTRIES:  # keys and values
            raise ConfigError(_TOO_MANY)
        if self._depth > CONFIG_DEPTH:
            raise ConfigError(_TOO_DEEP)
        if not self._aliases and self.check_event(yaml.AliasEvent):
            raise ConfigError("it has an alias (*), which is not allowed here")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def compose_scalar_node(self, anchor: str | None) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag != _TEXT and len(node.value) > SCALAR_LENGTH:
            line = node.start_mark.line + 1
            raise ConfigError(f"line {line}: {quoted(node.value, 60)} is too long for a value")
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # refused later, like every key that is not a string
            line = key.start_mark.line + 1
            name = key.tag, key.value
            if name in lines:
                raise ConfigError(
                    f"line {line}: duplicate key {quoted(key.value, 60)}, first on line "
                    f"{lines[name]}; remove one of them"
                )
            lines[name] = line
        merges = [value for key, value in node.value if key.tag == _MERGE]
        self._entries[node] = len(node.value) + sum(map(self._size, merges))
        self._total += self._entries[node]
        if self._total > CONFIG_ENTRIES:
            raise ConfigError(_TOO_MANY)
        return node

    def _size(self, merged: yaml.Node) -> int:
        """Return how many entries << brings: those of a mapping, or of each in a list."""
        items = merged.value if isinstance(merged, yaml.SequenceNode) else [merged]
        mappings = [item for item in items if isinstance(item, yaml.MappingNode)]
        if merged.end_mark is None or any(m not in self._entries for m in mappings):  # incomplete
            line = merged.start_mark.line + 1
            raise ConfigError(f"line {line}: a mapping is merged (<<) into itself; write it out")
        return sum(self._entries[mapping] for mapping in mappings)  # yaml refuses other items


# As in YAML 1.2: yes, no, on and off are text, as are 010 and 1:30, which were 8 and 90.
_PLAIN = {
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", "-+0123456789"),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _PLAIN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^({_pattern})$"), list(_first))


class _TextLoader(_Loader):
    """Takes scalars as text."""


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag == _MERGE]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def _of_model(tree: dict[str, object]) -> dict[str, object]:
    if "class" in tree or "model" not in tree:
        return tree
    if len(tree) > 1:
        others = quoted([k for k in tree if k != "model"])[1:-1]
        raise ConfigError(
            f"model: the key 'model' must be alone, got also {others}; give the value of 'model'"
        )
    inner = tree["model"]
    if not isinstance(inner, dict):
        raise ConfigError(f"model must be a mapping with a class, got {brief(inner)}")
    return inner


def read_file(file: Path, *, aliases: bool = True, as_text: bool = False) -> object:
    """Return the content of a YAML or JSON file.

    ``aliases`` says whether YAML's are allowed, ``as_text`` is as in :func:`parsed`.
    """
    data = read_bytes(file, CONFIG_BYTES, error=ConfigError, fix=_FIX)
    try:
        text = data.decode("utf-8-sig")
        if file.suffix == ".json":
            return json.loads(text, object_pairs_hook=_without_duplicates, parse_int=_integer)
        return parsed(text, aliases=aliases, as_text=as_text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file} is not valid JSON: {reason(error)}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f"line {mark.line + 1}: "
        problem = getattr(error, "problem", None) or error
        raise ConfigError(
            f"{file} cannot be read: {place}{reason(problem)}. A configuration is plain YAML, "
            f"without tags that make Python objects"
        ) from error
    except RecursionError:
        raise ConfigError(f"{file}: the configuration is nested too deeply") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    except ValueError as error:  # not UTF-8, or an impossible value such as a 13th month
        raise ConfigError(f"{file} cannot be read: {reason(error)}") from error


def parsed(text: str, *, aliases: bool = True, as_text: bool = False) -> object:
    """Return the content of YAML text; ``as_text`` leaves numbers, bools, ... as they are spelled.

    Raises ConfigError for duplicate keys or too much data, yaml.YAMLError for invalid YAML, and
    ValueError for an impossible value, such as a 13th month.
    """
    loader = (_TextLoader if as_text else _Loader)(text, aliases)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _integer(digits: str) -> int:
    if len(digits) > SCALAR_LENGTH:
        raise ConfigError(f"{quoted(digits, 60)} is too long for a value")
    return int(digits)


def _without_duplicates(entries: list[tuple[str, object]]) -> dict[str, object]:
    mapping: dict[str, object] = {}
    for name, value in entries:
        if name in mapping:
            raise ConfigError(f"duplicate key {quoted(name, 60)}; remove one of them")
        mapping[name] = value
    return mapping
