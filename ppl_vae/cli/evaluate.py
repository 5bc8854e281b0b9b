"""``ppl-vae evaluate``: the numbers of one run, printed and written as JSON."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ppl_vae.cli.errors import SUCCESS
from ppl_vae.cli.output import say, show
from ppl_vae.cli.report import reported
from ppl_vae.cli.runs import Run
from ppl_vae.io.atomic import write_file

FILE = "evaluation.json"


def run(flags: Any) -> int:
    """Evaluate, and return the exit code."""
    one = Run(Path(flags.run))
    with tempfile.TemporaryDirectory() as folder:
        result = reported([one], Path(folder), flags, figures=False)
        numbers = result.numbers.read_text(encoding="utf-8")
    show(result)  # whatever becomes of the file
    try:
        write_file(one.folder / FILE, numbers)
    except OSError as error:
        say(f"warning: {one.folder / FILE} could not be written: {error.strerror or error}")
    else:
        show(f"numbers: {one.folder / FILE}")
    return SUCCESS
