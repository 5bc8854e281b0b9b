"""What commands print, on the pages that quote it.

    PPL_VAE_DATA=../shared/data .venv/bin/python benchmarks/outputs.py

runs each command below in a process of its own, one thread, and keeps what it printed in
``benchmarks/results/outputs.json``; what is there is run again only with ``--again``. Then it puts
the outputs between their marks in ``docs/*.md``,

    <!-- output of examples/impute.py -->
    <!-- end of output -->

and the figures into ``docs/figures``. Lines that only name a file are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import measure

from ppl_vae.io import atomic

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
COMMANDS: Mapping[str, str | None] = {
    "examples/swap_priors.py": "priors.png",
    "examples/evaluate.py --epochs 30": None,
    "examples/evaluate.py --dataset mnist": "evaluate.png",
    "examples/conditional.py": None,
    "examples/hierarchical.py": None,
    "examples/impute.py": None,
    "examples/calibration.py": "calibration.png",
    "benchmarks/snr.py": None,
    "benchmarks/course.py": None,
}
"""The commands, and what their figures are called in ``docs/figures``, if they are shown."""
_NAMES_A_FILE = re.compile(r"(figure|report): |wrote ")
_MARKED = re.compile(r"<!-- output of (.+?) -->\n.*?<!-- end of output -->\n", re.DOTALL)


def run(command: str, figure: Path | None = None) -> str:
    """Run a command in an empty folder; return what it printed."""
    script, *flags = command.split()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *flags],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        if figure is not None:
            (made,) = Path(folder).glob(f"runs/*/{Path(script).stem}.png")
            shutil.copy(made, figure)
    lines = [line.rstrip() for line in done.stdout.splitlines() if not _NAMES_A_FILE.match(line)]
    return "\n".join(lines).strip("\n")


def block(command: str, results: Mapping[str, Any]) -> str:
    """Return an output with its marks, as it stands on a page."""
    printed = results["outputs"][command]
    return (
        f"<!-- output of {command} -->\n"
        f"```text\n$ .venv/bin/python {command}\n{printed}\n```\n"
        "<!-- end of output -->\n"
    )


def filled(page: str, results: Mapping[str, Any]) -> str:
    """Return a page with the outputs that there are between their marks."""

    def of(found: re.Match[str]) -> str:
        return block(found[1], results) if found[1] in results["outputs"] else found[0]

    return _MARKED.sub(of, page)


def commands_of(page: str) -> list[str]:
    """Return the commands whose outputs a page has."""
    return _MARKED.findall(page)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="commands with this in them")
    parser.add_argument("--again", action="store_true", help="run also what is there")
    flags = parser.parse_args()
    path = RESULTS / "outputs.json"
    for command, figure in COMMANDS.items():
        if flags.only not in command or (command in _read(path)["outputs"] and not flags.again):
            continue
        print(f"{command} ...", file=sys.stderr, flush=True)
        found = run(command, None if figure is None else ROOT / "docs" / "figures" / figure)
        results = _read(path)  # anew: another process may have written in the meantime
        results["outputs"][command] = found
        atomic.write_file(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    results = _read(path)
    for page in (ROOT / "docs").glob("*.md"):
        text = page.read_text()
        if (new := filled(text, results)) != text:
            page.write_text(new)


def _read(path: Path) -> dict[str, Any]:
    if path.exists():
        return json.loads(path.read_text())
    return {"machine": measure.machine(threads=1), "outputs": {}}


if __name__ == "__main__":
    main()
