"""Errors about files and configurations that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from ppl_vae.errors import PrintableError, describe, quoted


class StorageError(PrintableError, ValueError):
    """A file that cannot be used; the message names the file, the problem and the fix."""


class DamagedError(StorageError):
    """A file that is missing, incomplete or corrupt, or of another kind than expected."""


class UnsafeError(DamagedError):
    """A link, or a file that asks for more than plain data; nothing was run."""


class NewerFormatError(StorageError):
    """A file written by a newer version of the package."""


class MismatchError(StorageError):
    """Weights or a state that do not fit; nothing was changed."""


class ConfigError(PrintableError, ValueError):
    """A configuration that cannot be built, or a pair that cannot be written as one.

    The message starts with the path of the entry, such as ``model.prior.components``.
    """


def suggestion(name: str, accepted: Iterable[str]) -> str:
    """Return "did you mean ...? Accepted: ..." for a name that is not accepted."""
    names, name = sorted(accepted), name[:100]  # comparing takes time
    by_lower_case = {accepted.lower(): accepted for accepted in names}
    close = get_close_matches(name.rpartition(".")[2].lower(), by_lower_case, n=1)
    separator = "; " if any("," in known for known in names) else ", "
    options = f"ccepted: {separator.join(names)}"
    return f"did you mean {by_lower_case[close[0]]!r}? A{options}" if close else f"a{options}"


def brief(value: object) -> str:
    """Describe an entry as :func:`ppl_vae.errors.describe` does, but shorter, and None as null."""
    if value is None:
        return "null"
    text = describe(value)
    return text if len(text) <= 100 else f"{quoted(value, 64)} ({type(value).__name__})"
