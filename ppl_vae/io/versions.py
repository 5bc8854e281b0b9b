"""The number of the format that this version writes, and up to which it reads."""

from __future__ import annotations

from ppl_vae.errors import describe, quoted, reason
from ppl_vae.io.errors import DamagedError, NewerFormatError
from ppl_vae.version import __version__

FORMAT = 1


def check_format(source: object, number: object, version: object) -> None:
    """Raise an error if this version cannot read a file.

    Args:
        source: the file, for messages.
        number: the number of its format, as it stands there.
        version: that of the package which wrote it, as it stands there.

    Raises:
        DamagedError: if the number is none.
        NewerFormatError: if it is greater than ``FORMAT``.
    """
    if type(number) is not int or number < 1:
        raise DamagedError(
            f"{source}: the format must be an integer from 1 to {FORMAT}, got {describe(number)}"
        )
    if number > FORMAT:
        raise NewerFormatError(
            f"{source}: written by ppl_vae {_words(version)} in format {quoted(number)}, this is "
            f"{__version__} and reads up to format {FORMAT}; update ppl_vae"
        )


def _words(version: object) -> str:
    return reason(version, 30) if isinstance(version, str) else quoted(version, 30)
