"""From what is typed to an exit code."""

from __future__ import annotations

import sys
import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

import torch
from jsonargparse import set_parsing_settings

from ppl_vae.cli import overrides
from ppl_vae.cli.errors import FAILURE, SUCCESS, USAGE, UsageError
from ppl_vae.cli.parser import parser
from ppl_vae.errors import message as shown
from ppl_vae.storage import StorageError

_INTERRUPTED = 130
# Parts refuse each other by these; NotImplementedError is of an estimator that suits no such pair.
_OF_WHAT_WAS_TYPED = (
    *(UsageError, ArgumentError, ValueError, TypeError),
    *(ImportError, NotImplementedError),
)


def command() -> None:
    """Be the program ``ppl-vae``: run what was typed, and exit."""
    # Denormal numbers make a matrix product on a CPU a hundred times slower, and labels of
    # vanishing probability make them; this must come before the first parallel operation.
    torch.set_flush_denormal(True)
    warnings.showwarning = _show_warning
    with suppress(TypeError):  # older versions have their own flag without being asked
        set_parsing_settings(add_print_completion_argument=True)
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was typed, and return the exit code; results go to stdout, all else to stderr.

    Args:
        argv: the words after ``ppl-vae``; those of the process if not given.

    Example:
        >>> main(["fit", "no-such-file.yaml"])  # prints what is wrong, on stderr
        2
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except SystemExit as finished:  # --help and --version
        return finished.code if isinstance(finished.code, int) else SUCCESS
    except KeyboardInterrupt:
        print("ppl-vae: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except (StorageError, OSError) as error:
        return _failed(error, FAILURE, words)
    except _OF_WHAT_WAS_TYPED as error:
        return _failed(error, USAGE, words)


def _run(words: list[str]) -> int:
    rest, dotted = overrides.split(words)
    flags = parser().parse_args(rest)
    if dotted and flags.command != "fit":
        raise UsageError(f"--{'.'.join(dotted[0][0])} is a flag of ppl-vae fit")
    own = flags[flags.command]
    # Each is imported when it is needed: a page of help comes at once.
    if flags.command == "fit":
        from ppl_vae.cli import fit

        return fit.run(own, dotted)
    if flags.command == "evaluate":
        from ppl_vae.cli import evaluate

        return evaluate.run(own)
    if flags.command == "report":
        from ppl_vae.cli import report

        return report.run(own)
    from ppl_vae.cli import pictures

    return pictures.sample(own) if flags.command == "sample" else pictures.reconstruct(own)


def _failed(error: Exception, code: int, words: Sequence[str]) -> int:
    if "--debug" in words:
        traceback.print_exception(error, file=sys.stderr)
    # The last word on what a terminal is given, whoever wrote it.
    print(f"ppl-vae: error: {shown(error)}", file=sys.stderr)
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, UserWarning):  # others are for whoever writes code
        print(f"ppl-vae: warning: {shown(message)}", file=sys.stderr)
