"""Text for terminals without Unicode: k-hat for k̂, +- for ±."""

from __future__ import annotations

import sys
import unicodedata

_REPLACEMENTS = {
    "k̂": "k-hat",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "‖": "||",
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "→": "->",
    "Σ": "sum",
}
_GREEK = "GREEK SMALL LETTER "


def in_ascii(text: str) -> str:
    """Return a text in ASCII."""
    for letters, words in _REPLACEMENTS.items():
        text = text.replace(letters, words)
    return "".join(letter if letter < "\x80" else _plain(letter) for letter in text)


def for_stdout(text: str) -> str:
    """Return a text unchanged if stdout can encode it, else in ASCII.

    Example:
        >>> in_ascii("1.0 ± 0.1, k̂ > 0.7")
        '1.0 +- 0.1, k-hat > 0.7'
    """
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return in_ascii(text)
    return text


def _plain(letter: str) -> str:
    name = unicodedata.name(letter, "")
    if name.startswith(_GREEK):
        return name.removeprefix(_GREEK).lower()
    # Accents are dropped, their letters kept.
    parts = unicodedata.normalize("NFKD", letter)
    return "".join(p for p in parts if p < "\x80") or ("" if unicodedata.combining(letter) else "?")
