"""Configurations as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import torch

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
