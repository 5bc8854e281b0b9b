"""Configurations as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ppl_vae.io.errors import ConfigError, brief
from ppl_vae.io.format import CONFIG_DEPTH, CONFIG_ENTRIES


def plain(
    value: object,
    path: str = "model",
    counter: Iterator[int] | None = None,
    depth: int = CONFIG_DEPTH,
) -> Any:
    """Copy a value as plain data: str, int, float, bool, None, list and dict; tuples become lists.

    Raises ConfigError if it holds anything else, is nested too deeply, or, with a ``counter`` of
    entries, has more than ``CONFIG_ENTRIES``. ``path`` is its place, for messages.
    """
    if counter is not None and next(counter) > CONFIG_ENTRIES:
        raise ConfigError(f"{path}: the configuration has more than {CONFIG_ENTRIES} entries")
    if depth < 0:
        raise ConfigError(
            f"{path}: the configuration is nested too deeply, more than {CONFIG_DEPTH} levels, or "
            f"is a circular reference"
        )
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{path}: keys must be strings, got {brief(key)}")
        return {k: plain(v, f"{path}.{k[:60]}", counter, depth - 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, torch.Size)):
        return [plain(item, f"{path}[{i}]", counter, depth - 1) for i, item in enumerate(value)]
    if isinstance(value, np.generic):  # a NumPy scalar
        value = value.item()
    if type(value) in (str, int, float, bool, type(None)):
        return value
    raise ConfigError(
        f"{path} is {brief(value)}, which a configuration cannot hold: it holds strings, "
        f"numbers, true, false, null, lists and mappings; build the part in Python instead"
    )
