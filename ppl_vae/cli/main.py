"""The entry point: from the words typed to an exit code."""

from __future__ import annotations

import re
import signal
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from ppl_vae.cli.commands import parsers, print_completion
from ppl_vae.cli.errors import FAILURE, SUCCESS, USAGE, UsageError
from ppl_vae.cli.flags import Flag, hyphens, in_flags, nearest, split
from ppl_vae.cli.output import forget, open_streams, replace_unencodable, say
from ppl_vae.cli.parser import ALIASES
from ppl_vae.errors import LONGEST, reason
from ppl_vae.spec import entries

_INTERRUPTED = 130
_WITHOUT_TORCH = ("list", "show")
# Errors of what was typed; NotImplementedError is of an estimator incompatible with the pair.
_OF_USE = (UsageError, ValueError, TypeError, ImportError, NotImplementedError)
_OWNERS = re.compile(r"(fit|load|report|reproduce|explore|export|from_\w+|TableVAE(\.\w+)?): ")


def command() -> None:
    """Run ``ppl-vae`` with the words typed, and exit."""
    open_streams()
    for name in ("SIGTERM", "SIGHUP"):  # on Windows there is no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)  # so that half-written files are removed
    warnings.showwarning = _show_warning
    sys.exit(_main(sys.argv[1:], whole_process=True))


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and return the exit code; results go to stdout, all else to stderr.

    Args:
        argv: the words after ``ppl-vae``; those of the process if not given.

    Example:
        >>> main(["fit", "no-such-file.yaml"])  # prints what is wrong, on stderr
        2
    """
    return _main(list(sys.argv[1:] if argv is None else argv), whole_process=False)


def _main(words: list[str], *, whole_process: bool) -> int:
    replace_unencodable()
    flags: list[Flag] = []
    arguments: Mapping[str, str] = {}
    try:
        name, typed, flags = _parsed(words)
        arguments = _arguments(name, typed)
        if whole_process and name not in _WITHOUT_TORCH:
            import numpy as np  # not above: slow to import
            import torch

            # NumPy 1 would warn of flushed denormal numbers; what it finds here, it caches.
            np.finfo(np.float32), np.finfo(np.float64)
            # Denormal numbers make a matrix product on a CPU a hundred times slower, and labels of
            # vanishing probability make them; this must come before the first parallel operation.
            torch.set_flush_denormal(True)
        return _run(name, typed, flags)
    except SystemExit as finished:  # --help and --version
        return finished.code if isinstance(finished.code, int) else SUCCESS
    except KeyboardInterrupt:
        say("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has gone
        forget(sys.stdout)
        return FAILURE
    except Exception as error:
        code = _code(error)
        if code is None:
            raise
        if "--debug" in words and sys.stderr is not None:
            traceback.print_exception(error, file=sys.stderr)
        say(f"error: {_message(error, flags, arguments)}")
        return code


def _parsed(words: Sequence[str]) -> tuple[str, Namespace, list[Flag]]:
    """Return the command, its options, and the entries of a configuration."""
    top, commands = parsers()
    if not words:
        top.print_help()
        raise SystemExit(0)
    command, *rest = words
    if rest and f"{command} {rest[0]}" in commands:  # fit table
        command, rest = f"{command} {rest[0]}", rest[1:]
    command = ALIASES.get(command, command)
    if command not in commands:
        if command.startswith("-"):
            known = {hyphens(flag): flag for flag in top.flags}
            name, equals, value = command.partition("=")
            if hyphens(name) not in known:
                close = get_close_matches(hyphens(name)[:100], map(hyphens, top.flags), n=1)
                hint = f"did you mean --{close[0]}? Or it " if close else "it "
                raise UsageError(
                    f"{name}: {hint}comes after a command, as in ppl-vae fit {name}; see ppl-vae "
                    f"--help"
                )
            # --help and --version exit here.
            typed = top.parse_args([f"{known[hyphens(name)]}{equals}{value}", *rest])
            print_completion(top, typed.print_completion)
            raise SystemExit(0)
        raise UsageError(
            f"there is no command {command!r}; did you mean {nearest(command, commands)}? "
            f"Accepted: {', '.join(commands)}"
        )
    parser = commands[command]
    rest, entries = split(rest, parser.flags, command)
    # An optional argument may come after flags, ppl-vae encode RUN --out z.npy DATA.
    typed, more = parser.parse_known_intermixed_args(rest)
    if more:
        raise UsageError(f"{more[0]!r} is unexpected; {parser.format_usage().strip()}")
    return command, typed, entries


def _run(name: str, typed: Namespace, flags: Sequence[Flag]) -> int:
    # Imported when needed: help and usage errors take no time.
    if name in _WITHOUT_TORCH:
        from ppl_vae.cli import choices

        return choices.list_all(typed) if name == "list" else choices.show(typed)
    if name == "fit":
        from ppl_vae.cli import fit

        return fit.run(typed, flags)
    if name in ("fit table", "impute"):
        from ppl_vae.cli import tables

        return tables.fit(typed, flags) if name == "fit table" else tables.impute(typed)
    if name in ("sample", "reconstruct"):
        from ppl_vae.cli import sample

        return sample.sample(typed) if name == "sample" else sample.reconstruct(typed)
    if name == "encode":
        from ppl_vae.cli import encode

        return encode.encode(typed)
    if name == "reproduce":
        from ppl_vae.cli import reproduce

        return reproduce.run(typed)
    if name == "export":
        from ppl_vae.cli import export

        return export.run(typed)
    if name == "explore":
        from ppl_vae.cli import explore

        return explore.run(typed)
    from ppl_vae.cli import report

    return report.evaluate(typed) if name == "evaluate" else report.run(typed)


def _code(error: Exception) -> int | None:
    """Return the exit code of an error of the user's; None for a bug."""
    if isinstance(error, UsageError):
        return USAGE
    from ppl_vae.io import StorageError  # not above: slow to import

    if isinstance(error, (StorageError, OSError)):
        return FAILURE
    return USAGE if isinstance(error, _OF_USE) else None


def _message(error: Exception, flags: Sequence[Flag], arguments: Mapping[str, str]) -> str:
    """Return an error's message in terms of flags, on two lines at most."""
    if error.__cause__ is not None:
        from ppl_vae.io.config import ConfigError  # not above: slow to import

        if isinstance(error.__cause__, ConfigError):  # which names the entry
            error = error.__cause__
    text = reason(error, LONGEST) if isinstance(error, OSError) else str(error)
    text = _OWNERS.sub("", text, count=1) if _OWNERS.match(text) else text
    first, *more = (line.strip() for line in in_flags(text, flags, arguments).splitlines() or [""])
    return "\n".join([first, " ".join(more)] if more else [first])


def _arguments(name: str, typed: Namespace) -> dict[str, str]:
    """Return the flag of each argument in Python."""
    if name not in ("encode", "fit"):
        found = {entry: f"--{entry.replace('_', '-')}" for entry in vars(typed)}
        other = {"explore": {"out": "--export"}, "reproduce": {"parts": "--part"}}
        return found | other.get(name, {})
    if name == "encode":
        flags = {e.name: f"--{e.path}" for e in entries("data") if e.load}
        return {**flags, "source": "DATA", "path": "DATA"}
    flags = {e.name: f"--{e.path}" for section in ("data", "fit") for e in entries(section)}
    del flags["labels"]  # Python has another argument of that name
    return {**flags, "source": "--data", "path": "--data", "out": "--out", "resume": "--resume"}


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):  # others are for developers
        say(f"warning: {message}")
