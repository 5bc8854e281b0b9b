"""What is said of files that cannot be used."""

from __future__ import annotations

from ppl_vae.errors import message


class StorageError(ValueError):
    """A file that cannot be used; the message names the file, what is wrong and what to do.

    Whatever stands in the file, its message is not long, and does nothing to a terminal.
    """

    def __init__(self, text: object = "") -> None:
        super().__init__(message(text))


class DamagedError(StorageError):
    """A file that is missing, cut short or changed, or not what its name says."""


class UnsafeError(DamagedError):
    """A file or folder that asks for more than plain data, or leads elsewhere; nothing was run."""


class NewerFormatError(StorageError):
    """A file that a newer version of the package wrote."""


class MismatchError(StorageError):
    """Weights or a state of something else; nothing was changed."""
