"""Parsers with our messages, and what all commands share in their help."""

from __future__ import annotations

import re
from argparse import SUPPRESS, Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from typing import Any, NoReturn

from ppl_vae.cli.errors import UsageError
from ppl_vae.version import __version__

COMMANDS = {
    "fit": "train a pair; resume or repeat a run",
    "fit table": "train on a table, a CSV or Parquet file; cells may be missing",
    "evaluate": "bounds, log p(x) and more of a trained run, as a table and as JSON",
    "report": "one HTML page on one run, or on several side by side",
    "explore": "a local page to play with one run, or with several side by side",
    "sample": "draw data from a trained run",
    "reconstruct": "show test data and their reconstructions",
    "impute": "fill the missing cells of a table",
    "encode": "write the latents of data as numbers",
    "export": "a trained pair as ONNX or torch.export files, which run without this package",
    "list": "what there is to choose from: priors, posteriors, likelihoods, ..., a line each",
    "show": "signature and documentation of one: ppl-vae show prior VampPrior",
    "reproduce": "run a published table and print it beside the paper's numbers",
}


ALIASES = {"generate": "sample"}


class Formatter(RawDescriptionHelpFormatter):
    """Adds the default of a flag."""

    def _get_help_string(self, action: Action) -> str:
        # A seed of 0 is a default, and equal to False.
        none = action.default is False or action.default in (None, SUPPRESS, [])
        if none or "[" in (action.help or ""):
            return action.help or ""
        return f"{action.help} [{action.default}]"


class Parser(ArgumentParser):
    """Raises UsageError where argparse prints the usage and exits."""

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError in our words."""
        usage = self.format_usage().strip()
        if lacking := re.fullmatch(r"the following arguments are required: (.*)", message):
            raise UsageError(f"{lacking[1]} is missing; {usage}")
        flag, _, what = message.removeprefix("argument ").partition(": ")
        flag = flag.replace("/", " or ")
        if choice := re.fullmatch(r"invalid choice: (.*?) \(choose from (.*)\)", what):
            what = f"must be one of {choice[2].replace(chr(39), '')}, got {choice[1]}"
        elif other := re.fullmatch(r"not allowed with argument (.*)", what):
            what = f"and {other[1]} exclude each other; give one of them"
        elif what.startswith("expected "):
            what = "needs a value"
        elif what.startswith("ignored explicit argument"):
            what = "takes no value"
        raise UsageError(f"{flag} {what}")

    @property
    def flags(self) -> list[str]:
        """The flags of the command."""
        return [flag for action in self._actions for flag in action.option_strings]

    def given(self, typed: Namespace) -> list[str]:
        """Return the flags that were typed with a value other than the default, but --debug."""
        return [
            action.option_strings[-1]
            for action in self._actions
            if action.option_strings and action.dest != "debug"
            if getattr(typed, action.dest, action.default) != action.default
        ]


def command_parser(
    commands: Any, name: str, words: str, description: str, *examples: str
) -> Parser:
    """Return the parser of a command, added to the others; ``words`` are its own."""
    made: Parser = commands.add_parser(
        name,
        help=COMMANDS[name],
        aliases=[alias for alias, command in ALIASES.items() if command == name],
        usage=f"ppl-vae {name} {words} [options]",
        description=description,
        epilog=listed(*examples),
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    version(made)
    if words == "RUN":
        made.add_argument("run", metavar="RUN", help="the folder of a run")
    return made


def version(made: Parser) -> None:
    """Add ``--version``."""
    made.add_argument("--version", action="version", version=f"ppl-vae {__version__}")


def listed(*lines: str) -> str:
    """Return examples of commands as they are at the end of a help."""
    return "\n".join([f"Example{'s' if len(lines) > 1 else ''}:", *(f"  {li}" for li in lines)])
