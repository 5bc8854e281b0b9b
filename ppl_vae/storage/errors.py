"""What is said of files that cannot be used."""

from __future__ import annotations


class StorageError(ValueError):
    """A file that cannot be used; the message names the file, what is wrong and what to do."""


class DamagedError(StorageError):
    """A file that is missing, cut short or changed, or not what its name says."""


class UnsafeError(DamagedError):
    """A file that asks for more than plain data; nothing of it was run."""


class NewerFormatError(StorageError):
    """A file that a newer version of the package wrote."""


class MismatchError(StorageError):
    """Weights of another module; nothing was changed."""
