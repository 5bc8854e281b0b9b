"""What is said of a configuration that cannot be built."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from ppl_vae.errors import describe


class ConfigError(ValueError):
    """A configuration that cannot be built, or a pair that cannot be written as one.

    The message starts with the path of the entry, such as ``model.prior.components``.
    """


def suggestion(came: str, accepted: Iterable[str]) -> str:
    """Return "did you mean ...? Accepted are ..." for a name that is none of the accepted."""
    names = sorted(accepted)
    by_lower_case = {name.lower(): name for name in names}
    close = get_close_matches(came.rpartition(".")[2].lower(), by_lower_case, n=1)
    listed = f"ccepted: {', '.join(names)}"
    return f"did you mean {by_lower_case[close[0]]!r}? A{listed}" if close else f"a{listed}"


def told(value: object) -> str:
    """Describe a value as :func:`ppl_vae.errors.describe` does, null as in YAML, and in short."""
    if value is None:
        return "null"
    text = describe(value)
    return text if len(text) <= 100 else f"{text[:60]} ... ({type(value).__name__})"
