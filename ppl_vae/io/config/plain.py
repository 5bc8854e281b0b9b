"""Configurations as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ppl_vae.io.config.errors import ConfigError, told

LIMIT = 5000
"""Entries of a configuration in a file, at most: YAML's aliases can write very many in a few lines.
"""
DEEPEST = 50
"""How deep lists and mappings of a configuration may be nested."""


def plain(
    value: object, path: str = "model", counter: Iterator[int] | None = None, depth: int = DEEPEST
) -> Any:
    """Return a copy made of str, int, float, bool, None, list and dict; tuples become lists.

    Args:
        value: to be copied.
        path: where it stands, for messages.
        counter: counts the entries, of which there may be ``LIMIT``; no limit if not given.
        depth: how deep it may be nested.

    Raises:
        ConfigError: if there is anything else in it, too many entries or too deep ones.
    """
    if counter is not None and next(counter) > LIMIT:
        raise ConfigError(f"{path}: the configuration has more than {LIMIT} entries")
    if depth < 0:
        raise ConfigError(
            f"{path}: the configuration is nested too deeply, more than {DEEPEST} levels, or "
            f"contains itself"
        )
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{path}: keys must be strings, got {told(key)}")
        return {k: plain(v, f"{path}.{k[:60]}", counter, depth - 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, torch.Size)):
        return [plain(item, f"{path}[{i}]", counter, depth - 1) for i, item in enumerate(value)]
    if isinstance(value, np.generic):  # a scalar is as good as Python's
        value = value.item()
    if type(value) in (str, int, float, bool, type(None)):
        return value
    raise ConfigError(
        f"{path} is {told(value)}, which a configuration cannot hold; it holds strings, "
        f"numbers, true, false, null, lists and mappings. Build the part in Python instead"
    )
