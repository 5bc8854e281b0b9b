"""Configurations as plain data: copies of them, and files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
import yaml

from ppl_vae.config.errors import ConfigError, told

LIMIT = 10_000
"""Entries of a configuration, at most: YAML's aliases can write very many in a few lines."""


def plain(value: object, path: str = "model", counter: count | None = None) -> Any:
    """Return a copy made of str, int, float, bool, None, list and dict; tuples become lists.

    Raises:
        ConfigError: if there is anything else in it.
    """
    counter = count() if counter is None else counter
    if next(counter) > LIMIT:
        raise ConfigError(f"{path}: the configuration has more than {LIMIT} entries")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{path}: keys must be strings, got {told(key)}")
        return {key: plain(item, f"{path}.{key}", counter) for key, item in value.items()}
    if isinstance(value, (list, tuple, torch.Size)):
        return [plain(item, f"{path}[{i}]", counter) for i, item in enumerate(value)]
    if type(value) in (str, int, float, bool, type(None)):
        return value
    raise ConfigError(
        f"{path} is {told(value)}, which a configuration cannot hold; it holds strings, "
        f"numbers, true, false, null, lists and mappings. Build the part in Python instead"
    )


def load(config: Mapping[Any, Any] | str | os.PathLike[str]) -> dict[str, object]:
    """Return the pair's mapping from a mapping or the path of a YAML or JSON file.

    Raises:
        ConfigError: if it is no mapping, or the file cannot be read as YAML or JSON.
        OSError: if the file cannot be opened.
    """
    if isinstance(config, (str, os.PathLike)):
        given: object = _read(Path(config))
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


def _read(file: Path) -> object:
    text = file.read_text(encoding="utf-8")
    try:
        return json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file} is no JSON: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{file} cannot be read: {error}. A configuration is plain YAML; tags that make "
            f"Python objects are not read"
        ) from error
