"""Safe files: pairs, weights and the state of a training, whole or not there at all.

Weights are safetensors, states are safetensors and JSON, configurations name classes of the package
and nothing else: loading runs no code of whoever wrote the files.
"""

from ppl_vae.storage.atomic import clear_leftovers, new_folder, refuse_links, replaced_file
from ppl_vae.storage.errors import (
    DamagedError,
    MismatchError,
    NewerFormatError,
    StorageError,
    UnsafeError,
)
from ppl_vae.storage.hub import pull, push
from ppl_vae.storage.manifest import check, seal
from ppl_vae.storage.pairs import Matched, load, load_matching, save
from ppl_vae.storage.state import load_state, save_state
from ppl_vae.storage.weights import load_weights, read_tensors, save_weights, write_tensors

__all__ = [
    "DamagedError",
    "Matched",
    "MismatchError",
    "NewerFormatError",
    "StorageError",
    "UnsafeError",
    "check",
    "clear_leftovers",
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
    "save",
    "save_state",
    "save_weights",
    "seal",
    "write_tensors",
]
