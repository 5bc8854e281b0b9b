"""Usage errors and exit codes."""

from __future__ import annotations

from ppl_vae.errors import PrintableError

SUCCESS, FAILURE, USAGE, NOT_FINITE = 0, 1, 2, 3
"""Exit codes; a signal that ended a training leaves 128 plus its number: 130 or 143."""


class UsageError(PrintableError):
    """A wrong command line; the message says what to type instead."""
