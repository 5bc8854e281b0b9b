"""The command ``ppl-vae``: train, evaluate and look at pairs from a shell.

Thin: it reads flags and files, calls the packages that do the work, writes and prints. Each command
is in the module of its name; see ``ppl-vae COMMAND --help``.
"""

from ppl_vae.cli.main import command, main

__all__ = ["command", "main"]
