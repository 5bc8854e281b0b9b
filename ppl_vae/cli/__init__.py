"""The command ``ppl-vae``: train, evaluate and look at pairs from a shell.

Thin: it reads flags and files, calls the rooms that do the work, writes and prints. What each
command does is in the module of its name; ``ppl-vae COMMAND --help`` says how it is typed.
"""

from ppl_vae.cli.main import command, main

__all__ = ["command", "main"]
