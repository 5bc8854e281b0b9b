"""Saving and loading of pairs, weights and training states, and pairs as plain configurations.

Files are complete or not there. Loading runs no code from them: weights are safetensors, states are
safetensors and JSON, and a configuration can only name classes of the package.
"""

from ppl_vae.io.config import dump, from_config, to_config
from ppl_vae.io.errors import (
    ConfigError,
    DamagedError,
    MismatchError,
    NewerFormatError,
    StorageError,
    UnsafeError,
)
from ppl_vae.io.hub import pull, push
from ppl_vae.io.pairs import Matched, load, load_matching, save
from ppl_vae.io.state import load_state, save_state
from ppl_vae.io.tensors import load_weights, save_weights

__all__ = [
    "ConfigError",
    "DamagedError",
    "Matched",
    "MismatchError",
    "NewerFormatError",
    "StorageError",
    "UnsafeError",
    "dump",
    "from_config",
    "load",
    "load_matching",
    "load_state",
    "load_weights",
    "pull",
    "push",
    "save",
    "save_state",
    "save_weights",
    "to_config",
]
