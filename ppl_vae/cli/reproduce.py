"""``ppl-vae reproduce``: a published table, trained, measured and printed beside its numbers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from ppl_vae.cli.commands import parsers
from ppl_vae.cli.errors import SUCCESS, UsageError
from ppl_vae.cli.output import say, show
from ppl_vae.cli.runs import device_of, program
from ppl_vae.io.errors import suggestion
from ppl_vae.reproduction import TABLES, reproduce
from ppl_vae.training import Interrupted


def run(typed: Any) -> int:
    """Run a table, or list all; return the exit code."""
    if typed.name is None:
        if flags := parsers()[1]["reproduce"].given(typed):
            raise UsageError(
                f"{flags[0]} is for a table: give its NAME, one of {', '.join(TABLES)}"
            )
        show(_listed())
        return SUCCESS
    if typed.name not in TABLES:
        raise UsageError(f"NAME: no table {typed.name!r}; {suggestion(typed.name, TABLES)}")
    device_of(typed.device)  # raises if there is none
    extent = "smoke" if typed.smoke else "whole" if typed.whole else "shortened"
    folder = "reproduce" if extent == "shortened" else f"reproduce-{extent}"
    out = Path("runs") / folder / typed.name if typed.out is None else Path(typed.out)
    try:
        text = reproduce(
            TABLES[typed.name],
            out,
            seeds=typed.seeds,
            parts=typed.part,
            extent=extent,
            precision=typed.precision,
            compile=not (typed.no_compile or typed.smoke),
            device=typed.device,
            progress=not typed.quiet,
            say=say,
        )
    except Interrupted as error:
        words = shlex.join(sys.argv[1:])
        say(f"interrupted and saved; to go on: {program()} {words}")
        return 128 + error.signal
    show(text.rstrip("\n"), "", f"numbers: {out / typed.name}.json")
    return SUCCESS


def _listed() -> str:
    width = max(map(len, TABLES))
    lines = [
        f"{name:{width}}  {table.title} ({len(table.rows)} rows; a seed takes about "
        f"{_hours(table.minutes)} of one core)"
        for name, table in TABLES.items()
    ]
    return "\n".join(lines)


def _hours(minutes: int) -> str:
    return f"{minutes} minutes" if minutes < 120 else f"{round(minutes / 60)} hours"
