"""What is said of a configuration that cannot be built."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from ppl_vae.errors import describe, message, quoted


class ConfigError(ValueError):
    """A configuration that cannot be built, or a pair that cannot be written as one.

    The message starts with the path of the entry, such as ``model.prior.components``. Whatever the
    configuration holds, it is not long, and does nothing to a terminal.
    """

    def __init__(self, text: object = "") -> None:
        super().__init__(message(text))


def suggestion(came: str, accepted: Iterable[str]) -> str:
    """Return "did you mean ...? Accepted are ..." for a name that is none of the accepted."""
    names, came = sorted(accepted), came[:100]  # what is compared takes time
    by_lower_case = {name.lower(): name for name in names}
    close = get_close_matches(came.rpartition(".")[2].lower(), by_lower_case, n=1)
    listed = f"ccepted: {', '.join(names)}"
    return f"did you mean {by_lower_case[close[0]]!r}? A{listed}" if close else f"a{listed}"


def told(value: object) -> str:
    """Describe a value as :func:`ppl_vae.errors.describe` does, null as in YAML, and in short."""
    if value is None:
        return "null"
    text = describe(value)
    return text if len(text) <= 100 else f"{quoted(value, 64)} ({type(value).__name__})"
