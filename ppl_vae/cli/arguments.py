"""Arguments that several commands take."""

from __future__ import annotations

from argparse import Action, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, get_args, get_origin

from ppl_vae.cli import class_names
from ppl_vae.cli.flags import SHORT
from ppl_vae.cli.parser import Parser

OF_FILE = ("root", "scale", "missing", "channels", "grey", "size", "x", "y", "mask", "memory_map")
"""Entries of the section data that say how data are read."""


_SHORT = {path: f"--{name.replace('_', '-')}" for name, path in SHORT.items()}


def entry(
    group: Any, path: str, metavar: str | None, help: str, choices: Sequence[object] | None = None
) -> None:
    """Add an entry of a configuration to the page of help, and to a shell's completion."""
    typed = [f"--{path}", *([_SHORT[path]] if path in _SHORT else [])]
    group.add_argument(
        *dict.fromkeys(typed), metavar=None if choices else metavar, help=help, choices=choices
    )


def metavar_of(hint: Any) -> str:
    """Return how help shows a value of a type."""
    members = get_args(hint) or (hint,)
    if any(get_origin(member) is dict for member in members):
        return "YAML"
    if bool in members:
        return "true|false"
    if any(get_origin(member) is Literal for member in members):
        return "|".join(str(v) for m in members if get_origin(m) is Literal for v in get_args(m))
    if str in members or hint == list[str] | None:
        return "[TEXT,...]" if hint == list[str] | None else "TEXT"
    return "X" if float in members else "N"


def num_particles(made: Parser, help: str) -> None:
    """Add ``--num-particles``."""
    made.add_argument("--num-particles", type=integer(1), metavar="N", help=help)


def written_to(made: Parser, name: str, number: int) -> None:
    """Add how many draws, and to which file they go."""
    count = integer(1)
    made.add_argument("-n", "--number", type=count, default=number, metavar="N", help="how many")
    made.add_argument(
        "--out",
        "--file",
        dest="file",
        action=_AsTyped,
        metavar="FILE",
        help=f".png, .pdf or .svg for a picture, .csv or .npy for values; {name}.png or "
        f"{name}.csv in the run",
    )
    draws(made)
    debug(made)


class _AsTyped(Action):
    """Stores the flag that was typed beside its value."""

    def __call__(self, parser: object, namespace: Namespace, values: Any, flag: Any = None) -> None:
        setattr(namespace, self.dest, values)
        setattr(namespace, f"{self.dest}_flag", flag)


def costs(made: Parser) -> None:
    """Add what an evaluation is to take: data, samples, sections."""
    made.add_argument(
        "--data", metavar="FILE", help="of a table: rows that it was not trained on, to evaluate it"
    )
    for flag, default, kind, help in (
        ("--num-samples", 5000, integer(1), "of importance sampling, for each datum"),
        ("--num-data", 1000, integer(1, all=True), "of the test data, or all"),
        ("--annealed-data", 0, integer(0), "how many by annealed importance sampling, too; slow"),
        ("--gap-data", 0, integer(0), "for how many to split the inference gap"),
    ):
        made.add_argument(flag, type=kind, default=default, metavar="N", help=help)
    made.add_argument(
        "--sections",
        nargs="+",
        choices=class_names.report_sections(),
        metavar="NAME",
        help="further sections, after the runs: "
        + ", ".join(map(in_quotes, class_names.report_sections())),
    )
    made.add_argument(
        "--compile", action="store_true", help="compile importance sampling: seconds more at first"
    )
    draws(made)
    quiet(made)


def in_quotes(name: str) -> str:
    """Return a name as it is typed: one of several words in quotes."""
    return f'"{name}"' if " " in name else name


def integer(least: int, *, all: bool = False) -> Callable[[str], int | str]:
    """Return a parser of integers of at least ``least``, or of the word ``all``."""

    def read(text: str) -> int | str:
        if all and text == "all":
            return text
        with suppress(ValueError):
            if (number := int(text)) >= least:
                return number
        wanted = f"an integer of {least} or more" + (", or all" if all else "")
        raise ArgumentTypeError(f"must be {wanted}, got {text!r}")

    return read


def seed_number(text: str) -> int | str:
    """Read a seed."""
    number = integer(0)(text)
    if int(number) >= 2**32:
        raise ArgumentTypeError(f"must be below 2**32, got {text}")
    return number


def draws(made: Parser) -> None:
    """Add ``--seed`` and ``--device``."""
    made.add_argument(
        "--seed", type=seed_number, default=0, metavar="N", help="of all random draws"
    )
    made.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto")


def quiet(made: Any) -> None:
    """Add ``--quiet`` and ``--debug``."""
    made.add_argument("--quiet", action="store_true", help="no progress bar")
    debug(made)


def debug(made: Any) -> None:
    """Add ``--debug``."""
    made.add_argument("--debug", action="store_true", help="show where in the code an error is")
