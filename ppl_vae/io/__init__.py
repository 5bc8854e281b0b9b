"""Safe files: pairs, weights and the state of a training, whole or not there at all.

Weights are safetensors, states are safetensors and JSON, configurations name classes of the package
and nothing else: loading runs no code of whoever wrote the files.
"""

from ppl_vae.io.atomic import clear_leftovers, new_folder, refuse_links, replaced_file
from ppl_vae.io.config import ConfigError, dump, from_config, resolve, to_config
from ppl_vae.io.errors import (
    DamagedError,
    MismatchError,
    NewerFormatError,
    StorageError,
    UnsafeError,
)
from ppl_vae.io.hub import pull, push
from ppl_vae.io.manifest import check, seal
from ppl_vae.io.pairs import Matched, load, load_matching, save
from ppl_vae.io.state import load_state, save_state
from ppl_vae.io.tensors import load_weights, read_tensors, save_weights, write_tensors

__all__ = [
    "ConfigError",
    "DamagedError",
    "Matched",
    "MismatchError",
    "NewerFormatError",
    "StorageError",
    "UnsafeError",
    "check",
    "clear_leftovers",
    "dump",
    "from_config",
    "load",
    "load_matching",
    "load_state",
    "load_weights",
    "new_folder",
    "pull",
    "push",
    "read_tensors",
    "refuse_links",
    "replaced_file",
    "resolve",
    "save",
    "save_state",
    "save_weights",
    "seal",
    "to_config",
    "write_tensors",
]
