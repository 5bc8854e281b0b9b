"""The format of saved files: its version, and how large a file may be."""

from __future__ import annotations

from ppl_vae.errors import describe, quoted, reason
from ppl_vae.io.errors import DamagedError, NewerFormatError
from ppl_vae.version import __version__

FORMAT = 1
"""The version of the format that is written, and the newest that is read."""

TABLE = "table.json"
"""What the folder of a model of tables has beside the pair: the schema, and settings."""

# Limits on what is read: files may come from strangers. (The largest file of tensors is as large as
# the machine's memory, see ppl_vae.files.)
MANIFEST_BYTES = 2**20
HISTORY_BYTES = 2**28
HEADER_BYTES = 2**23  # of a safetensors file: 100,000 tensors
STATE_VALUES = 500_000  # of a saved state, not counting the elements of tensors
STATE_DEPTH = 100
INTEGER_BITS = 1000

CONFIG_BYTES = 2**18
CONFIG_ENTRIES = 5000  # aliases in YAML can expand a few lines to very many
CONFIG_DEPTH = 50
SCALAR_LENGTH = 100  # characters: converting long numbers takes quadratic time

BUILD_BYTES = 2**30  # of the tensors made while a pair is built from a configuration file
LOAD_BYTES, LOAD_FACTOR = 2**28, 10  # likewise from a saved pair, plus ten times its weights
OPERATION_BYTES = 2**17  # charged for each operation besides: thousands of tiny layers are slow


def check_format(source: object, number: object, version: object) -> None:
    """Raise an error if a file's format, as the file gives it, is invalid or newer than ``FORMAT``.

    ``source`` is the file, for messages, and ``version`` that of the package that wrote it.
    """
    if type(number) is not int or number < 1:
        raise DamagedError(
            f"{source}: the format must be an integer from 1 to {FORMAT}, got {describe(number)}"
        )
    if number > FORMAT:
        writer = reason(version, 30) if isinstance(version, str) else quoted(version, 30)
        raise NewerFormatError(
            f"{source}: written by ppl_vae {writer} in format {quoted(number)}; ppl_vae "
            f"{__version__} reads up to format {FORMAT}; update it"
        )
